"""The losses' GPU code in real nets, without a GPU: the kernels run on the host, on Caffe's host memory.

All other tests of the losses run so too, see `engine` in conftest.py. harness/host_kernels.py says what that shows.
"""

import numpy as np
import pytest
from harness import host_kernels, oracle
from harness.closeness import assert_close_gradient, assert_close_loss
from harness.nets import (
    CHANNEL_SUM,
    DICE,
    FOCAL,
    SIGMOID,
    SOFTMAX,
    fill,
    load,
    loss_index,
    net_text,
    python_layer,
    run_again,
)

from pylayers.runtime import geometry, gpu

pytestmark = pytest.mark.engines("host")


@pytest.fixture
def cupy(engine):
    return gpu.backend.cupy


SCORES = {"scores": np.zeros((4, 3), np.float32), "label": np.array([0, 1, 2, 0], np.float32)}


@pytest.fixture
def net():
    net = load(net_text(python_layer(SOFTMAX, SCORES), SCORES))
    fill(net, SCORES)
    return net


def test_a_wrong_label_is_an_error_in_backward_and_once(net):
    net.blobs["label"].data[1:3] = 7, -1
    net.forward()
    with pytest.raises(ValueError, match=r"WeightedSoftmaxLossLayer: bottom\[1\] \(label\) holds 7 at \(1,\); a label"):
        net.backward()
    net.blobs["label"].data[...] = 2
    net.forward()
    net.backward()


def test_a_wrong_label_without_backward_is_an_error_in_the_next_forward(net):
    net.blobs["label"].data[3] = np.nan
    net.forward()
    net.blobs["label"].data[3] = 0
    with pytest.raises(ValueError, match=r"holds nan at \(3,\)"):
        net.forward()
    net.forward()


def test_a_label_that_goes_wrong_after_forward_is_an_error_in_the_next_call(net):
    net.forward()
    net.blobs["label"].data[2] = 3
    net.backward()
    assert not net.blobs["scores"].diff[2].any()
    assert net.blobs["scores"].diff[1].any()
    with pytest.raises(ValueError, match=r"holds 3 at \(2,\)"):
        net.backward()


def test_backward_alone_reports_the_next_wrong_label_too(net):
    for index, wrong in ((2, 3), (1, -5)):
        net.blobs["label"].data[...] = 0
        net.forward() if index == 2 else None
        net.blobs["label"].data[index] = wrong
        net.backward()
        with pytest.raises(ValueError, match=rf"holds {wrong} at \({index},\)"):
            net.backward()


def test_a_wrong_label_counts_as_ignored(net):
    net.blobs["scores_data"].data[1] = 0, 5, 9
    net.blobs["label"].data[1] = 0.5
    assert net.forward()["loss"] == pytest.approx(np.log(3))


def test_everything_goes_to_the_legacy_default_stream(net, cupy):
    net.forward()
    net.backward()
    assert [name for name, _, _ in cupy.launches] == ["forward", "backward"]
    assert set(cupy.streams) == {1}  # cudaStreamLegacy


@pytest.mark.parametrize("loss_weight", [1, -0.3])
def test_few_sums_of_many_channels(loss_weight, cupy):
    random = np.random.default_rng(0)
    bottoms = {"pred": random.normal(size=(2, 3, 64, 64)), "target": random.normal(size=(2, 1))}
    bottoms = {name: array.astype(np.float32) for name, array in bottoms.items()}
    net = load(net_text(python_layer(CHANNEL_SUM, bottoms, '{"end_axis": -1}', loss_weight=loss_weight), bottoms))
    fill(net, bottoms)
    found = run_again(net, bottoms)
    launcher = net.layers[loss_index(net)].launcher(0)
    assert launcher.plan.macros["FEW"] == 1
    loss, *gradients = oracle.channel_sum_euclidean(*bottoms.values(), end_axis=-1)
    assert_close_loss(found.loss, loss)
    for diff, gradient in zip(found.diffs.values(), gradients):
        assert_close_gradient(diff, loss_weight * gradient)
    # After a reshape backward makes the sums itself, and leaves the loss alone.
    net.reshape()
    net.blobs["loss"].data[...] = 7
    net.backward()
    assert [name for name, _, _ in cupy.launches] == ["forward", "backward", "forward", "backward"]
    assert net.blobs["loss"].data == 7
    np.testing.assert_array_equal(net.blobs["pred"].diff, found.diffs["pred"])


@pytest.mark.parametrize(
    ("processors", "of_processor", "blocks"), [(2, 4, 8), (1, 1, 1), (3000, 8, geometry.MAX_BLOCKS), (132, 8, 1056)]
)
def test_blocks_are_not_more_than_the_gpu_can_run_at_once_nor_than_scratch_has_room_for(
    processors, of_processor, blocks, monkeypatch
):
    """2,560 tiles of 256 positions."""
    monkeypatch.setattr(gpu, "backend", host_kernels.HostGpu())
    cupy = gpu.backend.cupy = host_kernels.HostCupy(processors, of_processor)
    bottoms = {"scores": np.ones((10, 2, 65536), np.float32), "label": np.ones((10, 65536), np.float32)}
    net = load(net_text(python_layer(SOFTMAX, bottoms), bottoms))
    fill(net, bottoms)
    found = run_again(net, bottoms)
    assert [launch[1:] for launch in cupy.launches] == [(blocks, geometry.THREADS)] * 2
    assert_close_loss(found.loss, np.log(2))
    small = {"scores": np.ones((3, 2), np.float32), "label": np.ones(3, np.float32)}
    fill(net, small)
    net.forward()
    assert cupy.launches[-1][1:] == (1, geometry.THREADS)


def test_a_gpu_that_has_no_room_for_a_block_is_named(monkeypatch):
    monkeypatch.setattr(gpu, "backend", host_kernels.HostGpu())
    gpu.backend.cupy = host_kernels.HostCupy(blocks_of_processor=0)
    net = load(net_text(python_layer(SOFTMAX, SCORES), SCORES))
    with pytest.raises(RuntimeError, match="cannot run the kernel forward of weighted_softmax: it is too small"):
        net.forward()


OVER_ARRAYS = {
    "focal": (FOCAL, (4, 3), (4,), ""),
    "focal, sigmoid": (FOCAL, (4, 3), (4, 3), '{"activation": "SIGMOID", "ignore_label": 7}'),
    "sigmoid": (SIGMOID, (4, 3), (4, 3), ""),
    "dice": (DICE, (4, 3), (4,), '{"ignore_label": 7}'),
}


@pytest.mark.parametrize("wrong", [-1, 9, np.nan])
@pytest.mark.parametrize(("name", "scores", "label", "options"), OVER_ARRAYS.values(), ids=OVER_ARRAYS.keys())
def test_losses_over_arrays_report_a_wrong_label_one_call_later(name, scores, label, options, wrong):
    """Until then it counts as ignored, and it is reported once."""
    random = np.random.default_rng(0)
    bottoms = {"scores": random.normal(size=scores).astype(np.float32), "label": np.ones(label, np.float32)}
    net = load(net_text(python_layer(name, bottoms, options), bottoms))
    fill(net, bottoms)
    net.blobs["label"].data[2] = wrong
    net.forward()
    position = r"\(2, 0\)" if len(label) > 1 else r"\(2,\)"
    with pytest.raises(
        ValueError, match=rf"{name}: bottom\[1\] \(\w+\) holds {wrong:g} at {position}; a (label|target) must"
    ):
        net.backward()
    net.blobs["label"].data[...] = 1
    assert run_again(net, bottoms).diffs["scores"].all()


@pytest.mark.parametrize(("name", "scores", "label", "options"), OVER_ARRAYS.values(), ids=OVER_ARRAYS.keys())
def test_a_wrong_label_of_a_loss_over_arrays_has_no_gradient(name, scores, label, options):
    bottoms = {"scores": np.ones(scores, np.float32), "label": np.ones(label, np.float32)}
    net = load(net_text(python_layer(name, bottoms, options), bottoms))
    fill(net, bottoms)
    net.forward()
    net.blobs["label"].data[2] = 9
    net.backward()
    assert not net.blobs["scores"].diff[2].any()
    assert net.blobs["scores"].diff[1].all()


@pytest.mark.parametrize(("name", "scores", "label", "options"), OVER_ARRAYS.values(), ids=OVER_ARRAYS.keys())
def test_a_wrong_label_is_not_forgotten_where_shapes_change(name, scores, label, options):
    bottoms = {"scores": np.ones(scores, np.float32), "label": np.ones(label, np.float32)}
    net = load(net_text(python_layer(name, bottoms, options), bottoms))
    fill(net, bottoms)
    net.blobs["label"].data[3] = 9
    net.forward()
    fill(net, {blob: array[:2] for blob, array in bottoms.items()})
    with pytest.raises(ValueError, match=rf"{name}: .* holds 9 at \(3,"):
        net.forward()
    net.forward()
