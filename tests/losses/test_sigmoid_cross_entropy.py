"""SigmoidCrossEntropyLossLayer against Caffe's SigmoidCrossEntropyLoss, and the formula in float64."""

import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_matches, assert_same_results
from harness.nets import SIGMOID, layer, python_layer, run

from pylayers.gradient_check import assert_gradient

RANDOM = np.random.default_rng(0)
NORMALIZATIONS = ["BATCH_SIZE", "VALID", "FULL", "NONE"]


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def inputs(shape, ignored=None, soft=True):
    """Scores, and targets in another shape of the same N; some of the targets are `ignored`."""
    label = RANDOM.random(shape) if soft else RANDOM.integers(0, 2, shape)
    if ignored is not None:
        label = np.where(RANDOM.random(shape) < 0.3, ignored, label)
    return {"scores": 3 * normal(*shape), "label": label.astype(np.float32).reshape(shape[0], -1)}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("ignore", [None, 255, -1, 0])
def test_matches_caffe(ignore, normalization):
    bottoms = inputs((6, 5, 4), ignore, soft=False)
    loss_param = (
        f"loss_param {{ normalization: {normalization} {f'ignore_label: {ignore}' if ignore is not None else ''} }}"
    )
    options = {"normalization": normalization, **({} if ignore is None else {"ignore_label": ignore})}
    found = run(python_layer(SIGMOID, bottoms, json.dumps(options), loss_weight=0.3), bottoms)
    expected = run(layer("SigmoidCrossEntropyLoss", bottoms, params=loss_param, loss_weight=0.3), bottoms)
    assert_same_results(found, expected)


@pytest.mark.parametrize("weight", [None, (4,), (4, 3, 5)])
@pytest.mark.parametrize("pos_weight", [None, 2.5, [0.5, 1, 7]])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_matches_float64(normalization, pos_weight, weight):
    for ignore in (None, 255):
        bottoms = inputs((4, 3, 5), ignore)
        if weight:
            bottoms["weight"] = abs(normal(*weight))
        options = {"normalization": normalization, "pos_weight": pos_weight, "ignore_label": ignore}
        options = {key: value for key, value in options.items() if value is not None}
        found = run(python_layer(SIGMOID, bottoms, json.dumps(options), loss_weight=-2), bottoms)
        assert_matches(found, oracle.sigmoid_cross_entropy(*bottoms.values(), **options), -2)


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_pos_weight_along_an_axis(axis):
    bottoms = inputs((4, 3, 5))
    options = {"pos_weight": list(range(1, 1 + bottoms["scores"].shape[axis])), "axis": axis}
    found = run(python_layer(SIGMOID, bottoms, json.dumps(options)), bottoms)
    assert_matches(found, oracle.sigmoid_cross_entropy(*bottoms.values(), **options))


@pytest.mark.parametrize("size", [1e-6, 10, 30, 80, 1e4])
def test_scores_of_any_size(size):
    bottoms = inputs((4, 300), soft=False)
    bottoms["scores"] = (size * np.sign(bottoms["scores"])).astype(np.float32)
    found = run(python_layer(SIGMOID, bottoms), bottoms)
    assert_matches(found, oracle.sigmoid_cross_entropy(*bottoms.values()))
    bottoms["scores"] = size * (2 * bottoms["label"] - 1)  # all right
    if size < 87:  # where float32 ends
        assert_matches(run(python_layer(SIGMOID, bottoms), bottoms), oracle.sigmoid_cross_entropy(*bottoms.values()))


def test_ignored_targets_get_no_gradient_whatever_their_scores():
    bottoms = inputs((4, 300))
    bottoms["label"][1] = 255
    bottoms["scores"][1] = np.nan
    found = run(python_layer(SIGMOID, bottoms, '{"ignore_label": 255, "normalization": "VALID"}'), bottoms)
    assert np.isfinite(found.loss)
    assert not found.diffs["scores"][1].any()
    assert found.diffs["scores"][0].all()


def test_all_ignored_is_0():
    bottoms = inputs((4, 3))
    bottoms["label"][:] = 255
    found = run(python_layer(SIGMOID, bottoms, '{"ignore_label": 255, "normalization": "VALID"}'), bottoms)
    assert found.loss == 0
    assert not found.diffs["scores"].any()


def test_the_exact_value_is_ignored_and_caffes_whole_number_is_not():
    """Caffe cuts 0.7 to 0 before it compares."""
    bottoms = {"scores": normal(2, 3), "label": np.full((2, 3), 0.7, np.float32)}
    found = run(python_layer(SIGMOID, bottoms, '{"ignore_label": 0}'), bottoms)
    assert_matches(found, oracle.sigmoid_cross_entropy(*bottoms.values()))
    builtin = layer("SigmoidCrossEntropyLoss", bottoms, params="loss_param { ignore_label: 0 }")
    assert run(builtin, bottoms).loss == 0


@pytest.mark.engines("numba", "formula")
@pytest.mark.parametrize("wrong", [-0.1, 1.1, 255, np.nan, np.inf])
@pytest.mark.parametrize("options", ["", '{"ignore_label": 7}'])
def test_refuses_a_wrong_target(options, wrong):
    bottoms = inputs((4, 3))
    bottoms["label"][2, 1] = wrong
    rule = r"a target must be a number from 0 to 1" + (r", or 7 \(ignore_label\)" if options else "")
    with pytest.raises(ValueError, match=rf"SigmoidCross.*: bottom\[1\] \(target\) holds .* at \(2, 1\); {rule}"):
        run(python_layer(SIGMOID, bottoms, options), bottoms)


@pytest.mark.parametrize("weights", ["[2]", "[1, 2]"])
def test_refuses_pos_weight_of_another_number(weights):
    with pytest.raises(
        ValueError, match=r'key "pos_weight" must have 3 numbers, one for each channel .* axis 1, found'
    ):
        run(python_layer(SIGMOID, ["scores", "label"], f'{{"pos_weight": {weights}}}'), inputs((4, 3)))


def test_refuses_pos_weight_of_another_kind():
    with pytest.raises(TypeError, match=r'"pos_weight" must be a finite number, or a list of finite numbers, at least'):
        run(python_layer(SIGMOID, ["scores", "label"], '{"pos_weight": "2"}'), inputs((4, 3)))


@pytest.mark.parametrize("options", ["{}", '{"pos_weight": [1, 2, 3, 4, 5], "ignore_label": 0}'])
def test_gradient(options):
    text = f"""type: 'Python' python_param {{
        module: 'pylayers' layer: 'SigmoidCrossEntropyLossLayer' param_str: '{options}' }}"""
    assert_gradient(text, bottoms=[(4, 5), RANDOM.integers(0, 2, (4, 5)), (4, 5)], constants=[1, 2])
