"""WeightedSoftmaxLossLayer against SoftmaxWithLoss, InfogainLoss, and the formula in float64."""

import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_close_gradient, assert_close_loss, assert_same_results
from harness.nets import SOFTMAX, fill, layer, load, loss_index, net_text, python_layer, run

from pylayers.losses.weighted_softmax import layer as layer_module
from pylayers.runtime import tiles

CAFFE_NORMALIZATIONS = ["VALID", "FULL", "BATCH_SIZE", "NONE"]
# (shape of the scores, axis of the classes)
SHAPES = [
    ((64, 10), 1),
    ((1, 2), 1),
    ((5, 1), 1),
    ((3, 3), 0),
    ((2, 5, 6, 7), 1),
    ((2, 4, 5, 7), 2),
    ((2, 3, 4, 5), -1),
]
FLT_MIN_LOSS = 87.3365


def blobs(shape, axis=1, seed=0, ignore_label=None):
    """Scores, and labels in the shape that Caffe's documentation gives them: 1 along `axis`."""
    random = np.random.default_rng(seed)
    label_shape = list(shape)
    label_shape[axis] = 1
    if axis == 0:
        label_shape = shape[1:]
    label = random.integers(0, shape[axis], label_shape).astype(np.float32)
    if ignore_label is not None:
        label[random.random(label.shape) < 0.3] = ignore_label
    return {"scores": random.normal(size=shape).astype(np.float32), "label": label}


@pytest.mark.parametrize("ignore_label", [None, 255, 0, -1])
@pytest.mark.parametrize("normalization", CAFFE_NORMALIZATIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_matches_softmax_with_loss(shape, axis, normalization, ignore_label):
    bottoms = blobs(shape, axis, ignore_label=ignore_label)
    ignore = "" if ignore_label is None else f"ignore_label: {ignore_label}"
    params = f"softmax_param {{ axis: {axis} }} loss_param {{ normalization: {normalization} {ignore} }}"
    options = {"axis": axis, "normalization": normalization}
    if ignore_label is not None:
        options["ignore_label"] = ignore_label
    found = run(python_layer(SOFTMAX, bottoms, json.dumps(options), loss_weight=0.3), bottoms)
    assert_same_results(found, run(layer("SoftmaxWithLoss", bottoms, params=params, loss_weight=0.3), bottoms))


def test_matches_softmax_with_loss_at_100000_elements():
    bottoms = blobs((100, 1000))
    assert_same_results(run(python_layer(SOFTMAX, bottoms), bottoms), run(layer("SoftmaxWithLoss", bottoms), bottoms))


@pytest.mark.parametrize("ignore_label", [None, 255])
@pytest.mark.parametrize("normalization", CAFFE_NORMALIZATIONS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_matches_infogain_with_class_weights(shape, axis, normalization, ignore_label):
    bottoms = blobs(shape, axis, ignore_label=ignore_label)
    class_weights = np.random.default_rng(1).uniform(0, 3, shape[axis])
    options = {"axis": axis, "normalization": normalization, "class_weights": class_weights.tolist()}
    ignore = ""
    if ignore_label is not None:
        options["ignore_label"] = ignore_label
        ignore = f"ignore_label: {ignore_label}"
    params = f"infogain_loss_param {{ axis: {axis} }} loss_param {{ normalization: {normalization} {ignore} }}"
    found = run(python_layer(SOFTMAX, bottoms, json.dumps(options)), bottoms)
    matrix = {**bottoms, "infogain": np.diag(class_weights)[np.newaxis, np.newaxis].astype(np.float32)}
    assert_same_results(found, run(layer("InfogainLoss", matrix, params=params), matrix))


@pytest.mark.parametrize("weight_kind", [None, "label", "item"])
@pytest.mark.parametrize("class_weights", [None, [0.5, 2, 0, 3, 1]])
@pytest.mark.parametrize("normalization", [*CAFFE_NORMALIZATIONS, "WEIGHT_SUM"])
@pytest.mark.parametrize("ignore_label", [None, 255])
def test_matches_oracle(weight_kind, class_weights, normalization, ignore_label):
    bottoms = blobs((3, 5, 4, 6), ignore_label=ignore_label)
    options = {"normalization": normalization}
    if class_weights:
        options["class_weights"] = class_weights
    if ignore_label is not None:
        options["ignore_label"] = ignore_label
    if weight_kind:
        shape = bottoms["label"].shape if weight_kind == "label" else (3, 1)
        bottoms["weight"] = np.random.default_rng(1).uniform(0, 2, shape).astype(np.float32)
    found = run(python_layer(SOFTMAX, bottoms, json.dumps(options)), bottoms)
    loss, gradient = oracle.weighted_softmax(bottoms["scores"], bottoms["label"], bottoms.get("weight"), **options)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)


def test_large_blob_is_exact():
    bottoms = blobs((2, 21, 256, 256))
    loss, gradient = oracle.weighted_softmax(bottoms["scores"], bottoms["label"])
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)


@pytest.mark.parametrize("size", [1, 40, 100])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_any_pieces_match_oracle(shape, axis, size, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", size)
    monkeypatch.setattr(tiles, "SHORT", 3)
    bottoms = blobs(shape, axis, ignore_label=255)
    found = run(python_layer(SOFTMAX, bottoms, json.dumps({"axis": axis, "ignore_label": 255})), bottoms)
    loss, gradient = oracle.weighted_softmax(bottoms["scores"], bottoms["label"], axis=axis, ignore_label=255)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)


@pytest.mark.parametrize("spread", [0.1, 10, 100, 1e4])
@pytest.mark.parametrize("centre", [-1e6, -1e5, -1e4, -100, -35, 0, 35, 100, 1e4, 1e5, 1e6])
@pytest.mark.parametrize(("shape", "axis"), [((64, 10), 1), ((2, 5, 6, 7), 1)])
@pytest.mark.filterwarnings("error")
def test_scores_of_any_size(shape, axis, centre, spread, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 64)
    bottoms = blobs(shape, axis)
    bottoms["scores"] = (centre + spread * bottoms["scores"]).astype(np.float32)
    bottoms["scores"][0] = np.random.default_rng(1).normal(size=shape[1:])
    found = run(python_layer(SOFTMAX, bottoms, tops=["loss", "prob"]), bottoms)
    loss, gradient = oracle.weighted_softmax(bottoms["scores"], bottoms["label"])
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)


@pytest.mark.parametrize("unit", [1e-20, 1, 1e20])
@pytest.mark.parametrize("weight", [1e-10, 1e-5, 1, 1e8])
@pytest.mark.parametrize("centre", [-28, 0, 25])
def test_any_loss_weight_and_weights(centre, weight, unit):
    bottoms = blobs((20, 8))
    bottoms["scores"] += np.float32(centre)
    bottoms["weight"] = np.random.default_rng(1).uniform(weight / 2, weight, 20).astype(np.float32)
    options = {"normalization": "NONE"}
    found = run(python_layer(SOFTMAX, bottoms, json.dumps(options), loss_weight=unit), bottoms)
    _, gradient = oracle.weighted_softmax(bottoms["scores"], bottoms["label"], bottoms["weight"], **options)
    assert_close_gradient(found.diffs["scores"] / unit, gradient)


def test_a_class_may_be_ruled_out():
    bottoms = blobs((8, 4))
    bottoms["label"] %= 3
    bottoms["scores"][:, 3] = -np.inf
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    loss, gradient = oracle.weighted_softmax(bottoms["scores"][:, :3], bottoms["label"])
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"][:, :3], gradient)
    assert not found.diffs["scores"][:, 3].any()


@pytest.mark.parametrize("margin", [5, 12, 16])
def test_a_small_loss_keeps_its_digits(margin):
    bottoms = blobs((8, 4), seed=3)
    bottoms["scores"][np.arange(8), bottoms["label"].astype(int).reshape(-1)] += margin
    loss, gradient = oracle.weighted_softmax(bottoms["scores"], bottoms["label"])
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)


@pytest.mark.parametrize("normalization", [*CAFFE_NORMALIZATIONS, "WEIGHT_SUM"])
def test_no_valid_labels(normalization):
    bottoms = blobs((4, 3))
    bottoms["label"][...] = 255
    options = json.dumps({"ignore_label": 255, "normalization": normalization})
    found = run(python_layer(SOFTMAX, bottoms, options), bottoms)
    assert found.loss == 0
    assert not found.diffs["scores"].any()


def test_weight_sum_of_zero_gives_zero():
    bottoms = {**blobs((4, 3)), "weight": np.array([1, -1, 2, -2], np.float32)}
    found = run(python_layer(SOFTMAX, bottoms, '{"normalization": "WEIGHT_SUM"}'), bottoms)
    assert found.loss == 0
    assert not found.diffs["scores"].any()


def test_weight_sum_is_not_truncated():
    bottoms = {**blobs((4, 3)), "weight": np.full(4, 0.2, np.float32)}
    found = run(python_layer(SOFTMAX, bottoms, '{"normalization": "WEIGHT_SUM"}'), bottoms)
    del bottoms["weight"]
    assert_same_results(found, run(python_layer(SOFTMAX, bottoms), bottoms))


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy says so of −inf − −inf
def test_ignored_positions_may_hold_anything():
    bottoms = blobs((4, 3))
    bottoms["scores"][1] = np.nan
    bottoms["scores"][2] = -np.inf
    bottoms["label"][1:3] = 255
    found = run(python_layer(SOFTMAX, bottoms, '{"ignore_label": 255}'), bottoms)
    kept = {"scores": bottoms["scores"][[0, 3]], "label": bottoms["label"][[0, 3]]}
    expected = run(python_layer(SOFTMAX, kept), kept)
    assert_close_loss(found.loss, expected.loss)
    assert_close_gradient(found.diffs["scores"][[0, 3]], expected.diffs["scores"])
    assert not found.diffs["scores"][1:3].any()


def test_true_loss_where_the_builtin_saturates():
    bottoms = {"scores": np.array([[0, 200]], np.float32), "label": np.zeros(1, np.float32)}
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    assert found.loss == 200
    np.testing.assert_array_equal(found.diffs["scores"], [[-1, 1]])
    assert run(layer("SoftmaxWithLoss", bottoms), bottoms).loss == pytest.approx(FLT_MIN_LOSS, abs=1e-3)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_prob_top(shape, axis):
    bottoms = blobs(shape, axis)
    text = python_layer(SOFTMAX, bottoms, json.dumps({"axis": axis}), tops=["loss", "prob"])
    found = run(text, bottoms)
    assert_close_gradient(found.net.blobs["prob"].data, oracle.softmax(bottoms["scores"], axis))
    assert_same_results(found, run(python_layer(SOFTMAX, bottoms, json.dumps({"axis": axis})), bottoms))


@pytest.mark.parametrize(
    ("label", "text"),
    [(5, "5"), (-1, "-1"), (2.5, "2.5"), (-0.5, "-0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e20, "1e+20")],
)
@pytest.mark.parametrize("ignore_label", [None, 255])
@pytest.mark.parametrize("next_label", [0, 77])  # a second bad one is not the one to be named
def test_rejects_labels(label, text, ignore_label, next_label):
    bottoms = blobs((2, 5, 3, 4), ignore_label=ignore_label)
    bottoms["label"][1, 0, 2, 1] = label
    bottoms["label"][1, 0, 2, 3] = next_label
    options = "" if ignore_label is None else '{"ignore_label": 255}'
    tail = "" if ignore_label is None else r", or 255 \(ignore_label\)"
    with pytest.raises(
        ValueError,
        match=rf"WeightedSoftmaxLossLayer: bottom\[1\] \(label\) holds {text.replace('+', '[+]')} at \(1, 0, 2, 1\); "
        rf"a label must be a whole number from 0 to 4{tail}$",
    ):
        run(python_layer(SOFTMAX, bottoms, options), bottoms)


@pytest.mark.engines("numba", "formula")  # on the GPU the error comes one call later
def test_rejects_labels_in_backward_too():
    bottoms = blobs((4, 3))
    net = load(net_text(python_layer(SOFTMAX, bottoms), bottoms))
    fill(net, bottoms)
    net.forward()
    net.blobs["label"].data[2] = 3
    net.blobs["scores"].diff[...] = 7
    with pytest.raises(ValueError, match=r"holds 3 at \(2, 0\)"):
        net.backward()
    assert (net.blobs["scores"].diff == 7).all()


def test_rejects_a_wrong_number_of_labels():
    bottoms = blobs((2, 5, 3, 4))
    bottoms["label"] = bottoms["label"][:, :, :2]
    with pytest.raises(
        ValueError,
        match=r"bottom\[1\] \(label\) has shape \(2, 1, 2, 4\), expected 24 labels, one for each position of "
        r"bottom\[0\] \(scores\) of shape \(2, 5, 3, 4\) without axis 1, each a whole number from 0 to 4",
    ):
        run(python_layer(SOFTMAX, bottoms), bottoms)


def test_rejects_a_wrong_number_of_weights():
    bottoms = {**blobs((2, 5, 3, 4)), "weight": np.ones((2, 3), np.float32)}
    with pytest.raises(ValueError, match=r"bottom\[2\] \(weight\) has shape \(2, 3\), expected 24 weights, .* or 2, "):
        run(python_layer(SOFTMAX, bottoms), bottoms)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ('{"axis": 2}', ValueError, r'"axis" must be from -2 to 1 for bottom\[0\] .*, found 2'),
        ('{"axis": -3}', ValueError, r'"axis" must be from -2 to 1 .* found -3'),
        ('{"class_weights": [1, 2]}', ValueError, r'"class_weights" must have 3 numbers, .* found 2'),
        ('{"class_weights": [1, "2", 3]}', TypeError, r'"class_weights" must be a list of finite numbers'),
        ('{"class_weights": []}', ValueError, r'"class_weights" must be a list of finite numbers'),
        ('{"class_weights": 2}', TypeError, r'"class_weights" must be a list .* found 2'),
        ('{"class_weights": [1, 2, 1e999]}', ValueError, r'"class_weights" must be a list of finite numbers'),
        ('{"ignore_label": 2.5}', TypeError, r'"ignore_label" must be a whole number .*, found 2.5'),
        ('{"ignore_label": "255"}', TypeError, r'"ignore_label" must be a whole number .*, found "255"'),
        ('{"normalization": "valid"}', ValueError, r'"normalization" must be one of "VALID", .* found "valid"'),
        ('{"normalization": 1}', TypeError, r'"normalization" must be one of "VALID", .* found 1'),
    ],
)
def test_rejects_options(options, error, message):
    bottoms = blobs((4, 3))
    with pytest.raises(error, match=f"WeightedSoftmaxLossLayer: param_str key {message}"):
        run(python_layer(SOFTMAX, bottoms, options), bottoms)


@pytest.mark.parametrize("name", ["label", "weight"])
def test_backward_sees_labels_and_weights_that_changed_after_forward(name):
    bottoms = {**blobs((4, 3)), "weight": np.array([1, 2, 3, 4], np.float32)}
    net = load(net_text(python_layer(SOFTMAX, bottoms), bottoms))
    fill(net, bottoms)
    net.forward()
    bottoms[name] = bottoms[name][::-1].copy()
    net.blobs[name].data[...] = bottoms[name]
    net.backward()
    np.testing.assert_array_equal(
        net.blobs["scores"].diff, run(python_layer(SOFTMAX, bottoms), bottoms).diffs["scores"]
    )


@pytest.mark.parametrize("classes", [2, 5])
def test_backward_after_a_reshape_to_other_classes_is_of_the_new_scores(classes):
    """Caffe would run forward in between; what the last forward kept must not be used for other scores."""
    bottoms = blobs((4, 3))
    bottoms["label"] %= 2
    net = load(net_text(python_layer(SOFTMAX, bottoms), bottoms))
    fill(net, bottoms)
    net.forward()
    net.blobs["scores"].reshape(4, classes)
    index = loss_index(net)
    net.layers[index].reshape([net.blobs["scores"], net.blobs["label"]], [net.blobs["loss"]])
    scores = np.random.default_rng(1).normal(size=(4, classes)).astype(np.float32)
    net.blobs["scores"].data[...] = scores
    net._backward(index, index)
    _, gradient = oracle.weighted_softmax(scores, bottoms["label"])
    assert_close_gradient(net.blobs["scores"].diff, gradient)


@pytest.mark.engines("numba", "formula")  # on the GPU the error comes one call later
def test_a_refused_label_leaves_no_old_gradient():
    """After a forward that failed, backward is that of the scores that are there."""
    random = np.random.default_rng(0)
    bottoms = {"scores": random.normal(size=(4, 3)).astype(np.float32), "label": np.array([0, 1, 2, 0], np.float32)}
    net = run(python_layer(SOFTMAX, list(bottoms)), bottoms).net
    other = {**bottoms, "scores": random.normal(size=(4, 3)).astype(np.float32)}
    fill(net, {**other, "label": np.full(4, 5, np.float32)})
    with pytest.raises(ValueError, match="holds 5 at"):
        net.forward()
    net.blobs["label"].data[...] = other["label"]
    net.backward()
    expected = run(python_layer(SOFTMAX, list(bottoms)), other)
    np.testing.assert_array_equal(net.blobs["scores"].diff, expected.diffs["scores"])


@pytest.mark.engines("numba", "formula")  # on the GPU the error comes one call later
def test_labels_that_changed_before_a_refused_one_are_seen():
    bottoms = {
        "scores": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "label": np.zeros(3, np.float32),
    }
    net = run(python_layer(SOFTMAX, list(bottoms)), bottoms).net
    net.blobs["label"].data[...] = 1, 0, 99
    with pytest.raises(ValueError, match="holds 99 at"):
        net.backward()
    bottoms["label"] = np.array([1, 0, 0], np.float32)
    net.blobs["label"].data[...] = bottoms["label"]
    net.backward()
    expected = run(python_layer(SOFTMAX, list(bottoms)), bottoms)
    np.testing.assert_array_equal(net.blobs["scores"].diff, expected.diffs["scores"])


@pytest.mark.engines("numba", "formula")  # it is about the CPU's code
def test_a_backward_that_was_interrupted_leaves_nothing_half_done(monkeypatch):
    bottoms = {
        "scores": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "label": np.zeros(3, np.float32),
    }
    net = run(python_layer(SOFTMAX, list(bottoms)), bottoms).net
    bottoms["label"] = np.array([1, 0, 2], np.float32)
    net.blobs["label"].data[...] = bottoms["label"]
    with monkeypatch.context() as context:
        context.setattr(layer_module, "map_tiles", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            net.backward()
    net.backward()
    expected = run(python_layer(SOFTMAX, list(bottoms)), bottoms)
    np.testing.assert_array_equal(net.blobs["scores"].diff, expected.diffs["scores"])


def test_prob_gets_its_shape_back():
    bottoms = {"scores": np.zeros((4, 3), np.float32), "label": np.zeros(4, np.float32)}
    net = run(python_layer(SOFTMAX, list(bottoms), tops=["loss", "prob"]), bottoms).net
    net.blobs["prob"].reshape(2, 3)
    net.forward()
    assert net.blobs["prob"].data.shape == (4, 3)
