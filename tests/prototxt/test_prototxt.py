"""Every prototxt file loads and runs, and each Python net agrees with its built-in twin."""

import json

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from harness import ROOT
from harness.closeness import RELATIVE, RELATIVE_OVER_PIXELS, assert_close_gradient, assert_close_loss
from harness.examples import EXAMPLES, FOLDER, LOSS_STEMS, NETS, PYTHON_NETS, TWINS, WITHOUT_TWIN, ids

pytestmark = pytest.mark.usefixtures("demo_data")


# Nets whose labels are 0 and 1.
ONE_OR_ZERO = ("sigmoid_cross_entropy_loss", "focal_loss", "dice_loss")


def twin(path):
    return path.with_name(f"{path.stem}_builtin.prototxt")


def read(path):
    return text_format.Parse(path.read_text(), caffe_pb2.NetParameter())


def load_seeded(path, phase):
    caffe.set_random_seed(1)
    return caffe.Net(str(path), phase)


def fill_inputs(net, path):
    """Random numbers for the Input layers; for labels whole ones, and 255 in maps of 5 classes."""
    random = np.random.default_rng(0)
    classes = 2 if path.name.startswith(ONE_OR_ZERO) else 5
    for name, kind in zip(net._layer_names, net.layers):
        if kind.type == "Input":
            values = net.blobs[name].data
            values[...] = random.normal(size=values.shape)
            if name.endswith("weight"):
                values[...] = np.abs(values)
            if name == "label":
                values[...] = random.integers(0, classes, values.shape)
                if values.ndim == 4 and classes > 2:
                    values[random.random(values.shape) < 0.2] = 255


def test_every_loss_has_its_four_files():
    assert {"channel_sum_euclidean_loss", "l1_loss", "weighted_softmax_loss"} <= set(LOSS_STEMS)
    for stem in LOSS_STEMS:
        for path in (
            f"prototxt/{stem}.prototxt",
            f"prototxt/{stem}_builtin.prototxt",
            f"tests/losses/test_{stem.removesuffix('_loss')}.py",
        ):
            assert (ROOT / path).is_file(), path


def test_every_net_has_its_twin():
    for path in set(NETS) - set(WITHOUT_TWIN):
        partner = path.with_name(path.name.replace("_builtin", "")) if path not in PYTHON_NETS else twin(path)
        assert partner in NETS


@pytest.mark.parametrize("path", NETS, ids=ids(NETS))
@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST], ids=["train", "test"])
def test_loads_and_runs(path, phase):
    net = load_seeded(path, phase)
    if phase == caffe.TEST:
        fill_inputs(net, path)
    net.forward()
    net.backward()
    assert np.isfinite(net.blobs["loss"].data)
    assert net.blobs["loss"].data > 0
    gradients = [np.abs(blob.diff).max() for blobs in net.params.values() for blob in blobs]
    assert max(gradients) > 0


@pytest.mark.parametrize("path", TWINS, ids=ids(TWINS))
@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST], ids=["train", "test"])
def test_twins_agree(path, phase):
    nets = [load_seeded(net, phase) for net in (path, twin(path))]
    for net in nets:
        caffe.set_random_seed(2)
        if phase == caffe.TEST:
            fill_inputs(net, path)
        net.forward()
        net.backward()
    python, builtin = nets
    losses = [name for name in python.blobs if "loss" in name and name in python.outputs]
    assert losses
    relative = RELATIVE_OVER_PIXELS if path.stem == "segmentation" else RELATIVE
    for name in losses:
        assert_close_loss(float(python.blobs[name].data), float(builtin.blobs[name].data), relative)
    assert python.params
    for name in python.params:
        for found, expected in zip(python.params[name], builtin.params[name]):
            assert_close_gradient(found.diff, expected.diff)
    for name in ("pred", "scores", "auxiliary_scores", "student", "parts", "decoded", "anchor", "positive", "negative"):
        if name in python.blobs:
            assert_close_gradient(python.blobs[name].diff, builtin.blobs[name].diff)


def test_scaled_loss_does_not_move_the_teacher():
    for path in (FOLDER / "scaled_loss.prototxt", FOLDER / "scaled_loss_builtin.prototxt"):
        net = load_seeded(path, caffe.TEST)
        fill_inputs(net, path)
        net.forward()
        net.backward()
        assert net.params["student"][0].diff.any()
        assert not net.params["teacher"][0].diff.any()


def test_infogain_matrix_holds_the_class_weights():
    (loss,) = (layer for layer in read(FOLDER / "weighted_softmax_loss.prototxt").layer if layer.type == "Python")
    weights = json.loads(loss.python_param.param_str)["class_weights"]
    blob = caffe_pb2.BlobProto.FromString((FOLDER / "weighted_softmax_loss_builtin.binaryproto").read_bytes())
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), np.diag(weights)[np.newaxis, np.newaxis])


@pytest.mark.parametrize("path", TWINS, ids=ids(TWINS))
def test_twins_share_all_but_the_loss(path):
    """Layer by layer the same text up to the first layer that only one of the two has."""
    python, builtin = read(path), read(twin(path))
    first = next(index for index, layer in enumerate(python.layer) if layer.type == "Python")
    assert list(python.layer[:first]) == list(builtin.layer[:first])


def solver_for(net, folder):
    """A solver for `net` that draws from one seed and keeps its snapshots in `folder`."""
    param = caffe_pb2.SolverParameter(net=str(net), random_seed=1, base_lr=0.01, momentum=0.9, lr_policy="fixed")
    param.snapshot_prefix = str(folder / "snapshot")
    path = folder / "solver.prototxt"
    path.write_text(text_format.MessageToString(param))
    return caffe.get_solver(str(path))


def assert_same_params(net, other):
    for name, blobs in net.params.items():
        for blob, other_blob in zip(blobs, other.params[name]):
            np.testing.assert_array_equal(blob.data, other_blob.data)


@pytest.mark.parametrize("path", EXAMPLES, ids=ids(EXAMPLES))
def test_snapshot_saved_and_restored(path, tmp_path):
    whole = solver_for(path, tmp_path)
    whole.step(5)
    whole.snapshot()
    restored = solver_for(path, tmp_path)
    restored.restore(str(tmp_path / "snapshot_iter_5.solverstate"))
    assert restored.iter == 5
    assert_same_params(restored.net, whole.net)
    for solver in (whole, restored):
        caffe.set_random_seed(3)  # the same data for both from here on
        solver.step(5)
    assert_same_params(restored.net, whole.net)
