"""What holds for every loss of the kit, and for a user's own, with each engine."""

import caffe
import numpy as np
import pytest
from harness.closeness import assert_same_results
from harness.losses import LOSSES, peak_memory
from harness.nets import (
    CHANNEL_SUM,
    CONSTANTS,
    EUCLIDEAN,
    SOFTMAX,
    fill,
    input_text,
    load,
    loss_index,
    net_text,
    python_layer,
    run,
    run_again,
)

# One of the user's own losses is written on LossLayer, for the CPU alone.
pytestmark = pytest.mark.filterwarnings("ignore:L1LossLayer has no GPU code:RuntimeWarning")
WEIGHTS = [1, 0.3, 0, -2, 3.7]
SENTINEL = 7


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss(request):
    return request.param


def differentiable(loss):
    return [name for name in loss.shapes if name not in CONSTANTS]


def set_up(loss, num=4, header="", **more):
    bottoms = loss.bottoms(num)
    net = load(net_text(loss.layer(**more), bottoms, header))
    fill(net, bottoms)
    return net, bottoms


def test_top_has_the_shape_of_a_loss(loss):
    net, _ = set_up(loss)
    assert tuple(net.blobs["loss"].shape) == ()


def test_loss_can_be_summed_with_a_builtin_one(loss):
    bottoms = loss.bottoms(4)
    first = next(iter(bottoms))
    text = loss.layer(loss_weight=None) + (
        f'layer {{ name: "norm" type: "EuclideanLoss" bottom: "{first}" bottom: "{first}" top: "norm" loss_weight: 0 }}'
        'layer { name: "sum" type: "Eltwise" bottom: "loss" bottom: "norm" top: "sum" loss_weight: 1 }'
    )
    assert_same_results(run(text, bottoms), run(loss.layer(), bottoms))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_loss_weight_scales_gradient_and_not_the_loss(loss, weight):
    bottoms = loss.bottoms(4)
    plain, weighted = (run(loss.layer(loss_weight=w), bottoms) for w in (1, weight))
    assert weighted.loss == plain.loss
    for name in plain.diffs:
        np.testing.assert_allclose(weighted.diffs[name], weight * plain.diffs[name], rtol=1e-6)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_gradient_from_above_scales_gradient(loss, weight):
    bottoms = loss.bottoms(4)
    text = loss.layer(loss_weight=None) + (
        'layer { name: "above" type: "Power" bottom: "loss" top: "above" loss_weight: 1 '
        f"power_param {{ scale: {weight} }} }}"
    )
    expected = run(loss.layer(loss_weight=weight), bottoms)
    assert_same_results(run(text, bottoms), expected)


def test_without_loss_weight_nothing_is_propagated(loss):
    net, _ = set_up(loss, loss_weight=None)
    for name in differentiable(loss):
        net.blobs[name].diff[...] = SENTINEL
    net.forward()
    net.backward()
    assert all((net.blobs[name].diff == SENTINEL).all() for name in differentiable(loss))


def test_propagate_down_false_writes_nothing(loss):
    names = differentiable(loss)
    for wanted in np.ndindex(*[2] * len(names)):
        flags = [wanted[names.index(name)] if name in names else 0 for name in loss.shapes]
        params = " ".join(f"propagate_down: {'true' if flag else 'false'}" for flag in flags)
        net, bottoms = set_up(loss, params=params)
        net.forward()
        for name in loss.shapes:
            net.blobs[name].diff[...] = SENTINEL
        index = loss_index(net)
        net._backward(index, index)
        expected = run(loss.layer(), bottoms)
        for name, flag in zip(loss.shapes, flags):
            if flag:
                np.testing.assert_array_equal(net.blobs[name].diff, expected.diffs[name])
            else:
                assert (net.blobs[name].diff == SENTINEL).all()


def test_force_backward_gives_constants_a_gradient_of_zero(loss):
    net, bottoms = set_up(loss, header="force_backward: true\n")
    for name in loss.shapes:
        net.blobs[name].diff[...] = SENTINEL
    net.forward()
    net.backward()
    expected = run(loss.layer(), bottoms)
    for name in loss.shapes:
        np.testing.assert_array_equal(net.blobs[name].diff, expected.diffs.get(name, 0))


def test_backward_twice_writes_the_same(loss):
    net, bottoms = set_up(loss)
    first = run_again(net, bottoms)
    net.backward()
    for name, diff in first.diffs.items():
        np.testing.assert_array_equal(net.blobs[name].diff, diff)


def test_same_bits_from_run_to_run(loss):
    bottoms = loss.bottoms(4)
    first, second = (run(loss.layer(), bottoms) for _ in range(2))
    assert first.loss == second.loss
    for name in first.diffs:
        np.testing.assert_array_equal(first.diffs[name], second.diffs[name])


def test_forward_and_backward_leave_the_bottoms_alone(loss):
    net, bottoms = set_up(loss)
    net.forward()
    net.backward()
    for name, array in bottoms.items():
        np.testing.assert_array_equal(net.blobs[name].data, array)


@pytest.mark.parametrize("num", [1, 9])
def test_reshape_between_calls(loss, num):
    net, bottoms = set_up(loss)
    run_again(net, bottoms)
    other = loss.bottoms(num, seed=1)
    fill(net, other)
    net.reshape()
    assert_same_results(run_again(net, other), run(loss.layer(), other))


def test_backward_after_reshape(loss):
    net, bottoms = set_up(loss)
    expected = run_again(net, bottoms)
    net.reshape()
    net.backward()
    for name, diff in expected.diffs.items():
        np.testing.assert_array_equal(net.blobs[name].diff, diff)


def feed(net, bottoms):
    """Gives the loss layer's bottoms other shapes and values, without a forward of that layer."""
    fill(net, bottoms)
    net._forward(0, loss_index(net) - 1)
    net.reshape()


def assert_fresh_backward(loss, net, bottoms):
    """The loss layer's backward alone gives what a new net does for these bottoms."""
    index = loss_index(net)
    net._backward(index, index)
    for name, diff in run(loss.layer(), bottoms).diffs.items():
        np.testing.assert_array_equal(net.blobs[name].diff, diff)


@pytest.mark.parametrize("num", [4, 6])
def test_backward_of_bottoms_that_no_forward_has_seen(loss, num):
    net, first = set_up(loss)
    run_again(net, first)
    bottoms = loss.bottoms(num, seed=7)
    feed(net, bottoms)
    assert_fresh_backward(loss, net, bottoms)


def test_a_refused_shape_is_refused_again_and_leaves_no_old_gradient(loss):
    net, bottoms = set_up(loss)
    run_again(net, bottoms)
    wrong = dict(bottoms)
    last = list(bottoms)[-1]
    wrong[last] = np.repeat(bottoms[last], 2, axis=0)
    fill(net, wrong)
    for _ in range(2):
        with pytest.raises(ValueError, match="as its first dimension"):
            net.forward()
    again = loss.bottoms(4, seed=9)
    feed(net, again)
    assert_fresh_backward(loss, net, again)


def test_a_top_that_was_reshaped_gets_its_shape_back(loss):
    net, bottoms = set_up(loss)
    expected = run_again(net, bottoms)
    net.blobs["loss"].reshape(2, 2)  # new memory: Caffe's loss weight is lost with the old one
    found = run_again(net, bottoms)
    assert net.blobs["loss"].data.shape == ()
    assert found.loss == expected.loss


@pytest.mark.engines(
    "numba", "formula"
)  # on the GPU softmax takes Z, and with it the sum of the weights, from the last forward
@pytest.mark.parametrize("loss", [loss for loss in LOSSES.values() if "weight" in loss.shapes])
def test_weights_that_change_before_backward_are_seen(loss):
    net, bottoms = set_up(loss)
    net.forward()
    bottoms = {**bottoms, "weight": bottoms["weight"] + 1}
    net.blobs["weight"].data[...] = bottoms["weight"]
    assert_fresh_backward(loss, net, bottoms)


def test_backward_on_part_of_the_net(loss):
    net, bottoms = set_up(loss)
    net.forward()
    index = loss_index(net)
    net._backward(index, index)
    expected = run(loss.layer(), bottoms)
    for name, diff in expected.diffs.items():
        np.testing.assert_array_equal(net.blobs[name].diff, diff)


def test_forward_on_part_of_the_net(loss):
    net, bottoms = set_up(loss)
    expected = run_again(net, bottoms).loss
    net.blobs["loss"].data[...] = SENTINEL
    index = loss_index(net)
    assert net._forward(index, index) == pytest.approx(expected)
    assert net.blobs["loss"].data == expected


def test_debug_info(loss):
    bottoms = loss.bottoms(4)
    assert_same_results(run(loss.layer(), bottoms, header="debug_info: true\n"), run(loss.layer(), bottoms))


def test_runs_in_phase_train(loss):
    bottoms = loss.bottoms(4)
    net = load(net_text(loss.layer(), bottoms), caffe.TRAIN)
    fill(net, bottoms)
    assert_same_results(run_again(net, bottoms), run(loss.layer(), bottoms))


def test_rejects_different_batch_sizes(loss):
    bottoms = loss.bottoms(4)
    last = list(bottoms)[-1]
    bottoms[last] = np.repeat(bottoms[last], 2, axis=0)
    message = rf"Layer: bottom\[{len(bottoms) - 1}\] \(\w+\) has shape \(8.*\), expected 4 as its first dimension"
    with pytest.raises(ValueError, match=message):
        run(loss.layer(), bottoms)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 3), r"has shape \(0, 3\), expected at least one axis, and no axis of length 0"),
        ((4, 0), r"has shape \(4, 0\), expected at least one axis, and no axis of length 0"),
        ((), r"has shape \(\), expected at least one axis, and no axis of length 0"),
    ],
)
def test_rejects_blobs_that_are_empty_or_scalar(loss, shape, message):
    text = "".join(input_text(name, shape) for name in loss.shapes) + loss.layer()
    with pytest.raises(ValueError, match=rf"{loss.name}: bottom\[0\] \(.*\) {message}"):
        load(text)


@pytest.mark.parametrize("number", [1, 5])
def test_rejects_a_wrong_number_of_bottoms(loss, number):
    names = [f"pred_{index}" for index in range(number)]
    bottoms = {name: np.zeros((2, 3), np.float32) for name in names}
    text = python_layer(loss.name, names, loss.options, module=loss.module)
    with pytest.raises(ValueError, match=rf"{loss.name}: takes [23] .*bottoms \(.*\), found {number}"):
        run(text, bottoms)


def test_rejects_a_wrong_number_of_tops(loss):
    bottoms = loss.bottoms(4)
    with pytest.raises(ValueError, match=rf"{loss.name}: takes 1 .*tops \(loss.*\), found 3"):
        run(loss.layer(tops=["loss", "b", "c"]), bottoms)


@pytest.mark.parametrize("options", ["{", "[]", '{"no_such_key": 1}', '{"normalization": NaN}'])
def test_rejects_param_str(loss, options):
    text = python_layer(loss.name, list(loss.shapes), options, module=loss.module)
    with pytest.raises(ValueError, match=f"{loss.name}: param_str "):
        run(text, loss.bottoms(4))


@pytest.mark.parametrize("shape", [(30, 40, 1000), (3, 7, 300, 300), (1, 12, 300, 300)])
@pytest.mark.parametrize("name", [EUCLIDEAN, CHANNEL_SUM, SOFTMAX])
def test_same_bits_with_any_number_of_threads(name, shape, monkeypatch):
    random = np.random.default_rng(0)
    bottoms = {"scores" if name == SOFTMAX else "pred": random.normal(size=shape).astype(np.float32)}
    if name == SOFTMAX:
        bottoms["label"] = random.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.float32)
    else:
        bottoms["target"] = random.normal(size=shape).astype(np.float32)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        results.append(run(python_layer(name, bottoms), bottoms))
    for other in results[1:]:
        assert other.loss == results[0].loss
        for blob, diff in results[0].diffs.items():
            np.testing.assert_array_equal(other.diffs[blob], diff)


@pytest.mark.parametrize("name", [EUCLIDEAN, CHANNEL_SUM, SOFTMAX])
def test_takes_no_more_memory_than_one_blob(name):
    """As much as Caffe's own EuclideanLoss and SoftmaxWithLoss keep."""
    assert peak_memory(name) < 1
