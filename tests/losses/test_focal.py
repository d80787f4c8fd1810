"""FocalLossLayer against Caffe's losses where γ is 0, and against the formula in float64."""

import itertools
import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_matches, assert_same_results
from harness.nets import FOCAL, SIGMOID, SOFTMAX, fill, layer, load, loss_index, net_text, python_layer, run, run_again

from pylayers.gradient_check import assert_gradient

RANDOM = np.random.default_rng(0)
GAMMAS = [0, 0.5, 1, 2, 5]


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def of_classes(shape, axis=1, ignored=None):
    """Scores and class labels; the first label is `ignored`."""
    scores = normal(*shape)
    label = RANDOM.integers(0, shape[axis], np.delete(shape, axis)).astype(np.float32)
    if ignored is not None:
        label.flat[0] = ignored
    return {"scores": scores, "label": label}


def of_scores(shape, ignored=None):
    """Scores and a label of 0 or 1 for each; the first is `ignored`."""
    label = RANDOM.integers(0, 2, shape).astype(np.float32)
    if ignored is not None:
        label.flat[0] = ignored
    return {"scores": normal(*shape), "label": label}


def found(bottoms, loss_weight=1, **options):
    options = {key: value for key, value in options.items() if value is not None}
    return run(python_layer(FOCAL, bottoms, json.dumps(options), loss_weight=loss_weight), bottoms)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5), 1), ((3, 5, 4), 1), ((2, 3, 5), -1), ((4, 4), 0), ((2, 3, 600), 1)]
)
def test_softmax_matches_float64(shape, axis, gamma):
    bottoms = of_classes(shape, axis)
    assert_matches(
        found(bottoms, -0.3, gamma=gamma, axis=axis),
        oracle.softmax_focal(*bottoms.values(), gamma=gamma, axis=axis),
        -0.3,
    )


@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"])
@pytest.mark.parametrize("weight", [None, (4,), (4, 3)])
def test_softmax_weights_and_normalization(weight, normalization):
    for class_weights, ignore in itertools.product((None, [1, 2, 0, 0.5, 3]), (None, 255)):
        bottoms = of_classes((4, 5, 3), ignored=ignore)
        if weight:
            bottoms["weight"] = abs(normal(*weight))
        options = {"class_weights": class_weights, "ignore_label": ignore, "normalization": normalization}
        assert_matches(found(bottoms, **options), oracle.softmax_focal(*bottoms.values(), **options))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "VALID", "FULL", "NONE"])
def test_sigmoid_matches_float64(normalization, gamma):
    for pos_weight, weight, ignore in itertools.product((None, 3, [1, 2, 0.5]), (None, (4,), (4, 3, 5)), (None, 255)):
        bottoms = of_scores((4, 3, 5), ignore)
        if weight:
            bottoms["weight"] = abs(normal(*weight))
        options = {"gamma": gamma, "pos_weight": pos_weight, "ignore_label": ignore, "normalization": normalization}
        expected = oracle.sigmoid_focal(*bottoms.values(), **options)
        assert_matches(found(bottoms, 2, activation="SIGMOID", **options), expected, 2)


@pytest.mark.parametrize("ignore", [None, 255, 1])
@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE"])
def test_gamma_0_is_softmax_with_loss(normalization, ignore):
    bottoms = of_classes((4, 5, 3), ignored=ignore)
    param = f"loss_param {{ normalization: {normalization} {f'ignore_label: {ignore}' if ignore else ''} }}"
    expected = run(layer("SoftmaxWithLoss", bottoms, params=param, loss_weight=0.3), bottoms)
    assert_same_results(found(bottoms, 0.3, gamma=0, ignore_label=ignore, normalization=normalization), expected)


def test_gamma_0_is_sigmoid_cross_entropy_loss():
    bottoms = of_scores((4, 5, 3))
    assert_same_results(
        found(bottoms, 0.3, gamma=0, activation="SIGMOID"),
        run(layer("SigmoidCrossEntropyLoss", bottoms, loss_weight=0.3), bottoms),
    )


@pytest.mark.parametrize("activation", ["SOFTMAX", "SIGMOID"])
def test_gamma_0_is_the_kits_own_loss_with_weights(activation):
    bottoms = of_classes((4, 5, 3)) if activation == "SOFTMAX" else of_scores((4, 5, 3))
    bottoms["weight"] = abs(normal(*bottoms["label"].shape))
    key, name = ("class_weights", SOFTMAX) if activation == "SOFTMAX" else ("pos_weight", SIGMOID)
    options = {key: [1, 2, 3, 0.5, 7]}
    expected = run(python_layer(name, bottoms, json.dumps(options)), bottoms)
    assert_same_results(found(bottoms, gamma=0, activation=activation, **options), expected)


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("size", [1e-6, 8, 15, 30, 1e4])
def test_scores_of_any_size(size, gamma, right):
    """Labels far above all others, or far below: p → 1 and p → 0."""
    scores = np.zeros((4, 7, 3), np.float32)
    scores[:, 2] = size
    label = np.full((4, 3), 2 if right else 4, np.float32)
    bottoms = {"scores": scores + 1e-2 * normal(4, 7, 3), "label": label}
    expected = oracle.softmax_focal(*bottoms.values(), gamma=gamma)
    if np.abs(expected[1]).max() > 1e-36:  # where float32 ends
        assert_matches(found(bottoms, gamma=gamma), expected)
    assert np.isfinite(found(bottoms, gamma=gamma).diffs["scores"]).all()
    x = {"scores": size + 1e-2 * normal(4, 7), "label": np.full((4, 7), right, np.float32)}
    expected = oracle.sigmoid_focal(*x.values(), gamma=gamma)
    if np.abs(expected[1]).max() > 1e-36:
        assert_matches(found(x, gamma=gamma, activation="SIGMOID"), expected)
    assert np.isfinite(found(x, gamma=gamma, activation="SIGMOID").diffs["scores"]).all()


@pytest.mark.parametrize("activation", ["SOFTMAX", "SIGMOID"])
def test_ignored_labels_get_no_gradient_whatever_their_scores(activation):
    bottoms = of_classes((4, 5, 3)) if activation == "SOFTMAX" else of_scores((4, 5, 3))
    bottoms["label"][1], bottoms["scores"][1] = 255, np.nan
    result = found(bottoms, activation=activation, ignore_label=255)
    assert np.isfinite(result.loss)
    assert not result.diffs["scores"][1].any()
    assert result.diffs["scores"][0].all()


def test_labels_and_weights_that_change_before_backward_are_seen():
    bottoms = {**of_classes((4, 5, 3)), "weight": abs(normal(4, 3))}
    net = load(net_text(python_layer(FOCAL, bottoms), bottoms))
    fill(net, bottoms)
    run_again(net, bottoms)
    index = loss_index(net)
    for name in ("weight", "label"):
        changed = {**bottoms, name: bottoms[name][::-1].copy()}
        net.blobs[name].data[...] = changed[name]
        net._backward(index, index)
        expected = run(python_layer(FOCAL, bottoms), changed).diffs["scores"]
        np.testing.assert_array_equal(net.blobs["scores"].diff, expected)
        net.blobs[name].data[...] = bottoms[name]


@pytest.mark.engines("numba", "formula")
@pytest.mark.parametrize(
    ("activation", "label"), [("SOFTMAX", 5), ("SIGMOID", 0.5), ("SIGMOID", 2), ("SIGMOID", np.nan)]
)
def test_refuses_a_wrong_label(activation, label):
    bottoms = of_classes((4, 5, 3)) if activation == "SOFTMAX" else of_scores((4, 5, 3))
    bottoms["label"][2, 1] = label
    most = 4 if activation == "SOFTMAX" else 1
    with pytest.raises(
        ValueError, match=rf"\(label\) holds .* at \(2, 1.*; a label must be a .* number from 0 to {most}"
    ):
        found(bottoms, activation=activation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": -1}, r'"gamma" must be a finite number, at least 0'),
        ({"pos_weight": 2}, r'"pos_weight" does not go with "activation": "SOFTMAX"; write "class_weights"'),
        (
            {"activation": "SIGMOID", "class_weights": [1, 2]},
            r'"class_weights" does not go with "activation": "SIGMOID"; write "pos_weight"',
        ),
        (
            {"activation": "SIGMOID", "normalization": "WEIGHT_SUM"},
            r'"normalization" must be one of "BATCH_SIZE", .* with "activation": "SIGMOID", found "WEIGHT_SUM"',
        ),
        ({"class_weights": [1, 2]}, r'"class_weights" must have 5 numbers'),
    ],
)
def test_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        found(of_classes((4, 5)), **options)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient(gamma):
    text = f"""type: 'Python' python_param {{
        module: 'pylayers' layer: 'FocalLossLayer' param_str: '{{"gamma": {gamma}%s}}' }}"""
    assert_gradient(text % "", bottoms=[(4, 6, 3), (4, 3), (4, 3)], labels={1: 6}, constants=[2])
    assert_gradient(text % ', "activation": "SIGMOID"', bottoms=[(4, 6), (4, 6)], labels={1: 2})
