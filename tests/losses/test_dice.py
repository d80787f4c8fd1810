"""DiceLossLayer against the formula in extended precision."""

import itertools
import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_matches
from harness.nets import DICE, python_layer, run

from pylayers.gradient_check import assert_gradient

RANDOM = np.random.default_rng(0)
ACTIVATIONS = ["SOFTMAX", "SIGMOID", "NONE"]


def inputs(shape, activation="SOFTMAX", axis=1, ignored=None):
    """Scores, or with NONE probabilities, and labels; some labels are `ignored`."""
    scores = RANDOM.random(shape) if activation == "NONE" else 2 * RANDOM.normal(size=shape)
    label = RANDOM.integers(0, max(2, shape[axis]), np.delete(shape, axis)).astype(np.float32)
    if ignored is not None:
        label[RANDOM.random(label.shape) < 0.3] = ignored
    return {"scores": scores.astype(np.float32), "label": label}


def found(bottoms, loss_weight=1, **options):
    options = {key: value for key, value in options.items() if value is not None}
    return run(python_layer(DICE, bottoms, json.dumps(options), loss_weight=loss_weight), bottoms)


@pytest.mark.parametrize("per_item", [False, True])
@pytest.mark.parametrize("exponent", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_matches_the_formula(activation, exponent, per_item):
    for (shape, axis), smooth, ignore, background in itertools.product(
        [((6, 5), 1), ((3, 4, 5, 6), 1), ((2, 3, 5), -1), ((2, 3, 700), 1)], (0, 1, 100), (None, 255, 1), (None, 0)
    ):
        bottoms = inputs(shape, activation, axis, ignore)
        options = {"activation": activation, "exponent": exponent, "per_item": per_item, "smooth": smooth}
        options.update(ignore_label=ignore, axis=axis, background=background)
        assert_matches(found(bottoms, -0.3, **options), oracle.dice(*bottoms.values(), **options), -0.3)


@pytest.mark.parametrize("exponent", [1, 2])
@pytest.mark.parametrize("activation", ["SIGMOID", "NONE"])
def test_one_channel(activation, exponent):
    for per_item, ignore in itertools.product((False, True), (None, 255)):
        bottoms = inputs((4, 1, 6, 5), activation, ignored=ignore)
        options = {"activation": activation, "exponent": exponent, "per_item": per_item, "ignore_label": ignore}
        assert_matches(found(bottoms, **options), oracle.dice(*bottoms.values(), **options))


def test_classes_along_axis_0():
    bottoms = inputs((5, 5), axis=0)
    assert_matches(found(bottoms, axis=0), oracle.dice(*bottoms.values(), axis=0))


@pytest.mark.parametrize("exponent", [1, 2])
@pytest.mark.parametrize("activation", ["SOFTMAX", "SIGMOID"])
@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("size", [1e-6, 5, 10, 16])
def test_scores_of_any_size(size, right, activation, exponent):
    """All labels are far above all others, so that the loss is a small difference; or far below."""
    bottoms = inputs((4, 3, 50))
    own = np.moveaxis(np.eye(3)[bottoms["label"].astype(int)], -1, 1)
    bottoms["scores"] = ((2 * own - 1) * size * (1 if right else -1)).astype(np.float32)
    bottoms["scores"] += 0.1 * RANDOM.normal(size=(4, 3, 50)).astype(np.float32)
    options = {"activation": activation, "exponent": exponent}
    assert_matches(found(bottoms, **options), oracle.dice(*bottoms.values(), **options))


@pytest.mark.parametrize("activation", ["SOFTMAX", "SIGMOID"])
@pytest.mark.parametrize("right", [True, False])
def test_scores_of_10000(right, activation):
    """The gradient underflows, in float64 as well."""
    bottoms = inputs((4, 3, 50))
    own = np.moveaxis(np.eye(3)[bottoms["label"].astype(int)], -1, 1)
    bottoms["scores"] = ((2 * own - 1) * 1e4 * (1 if right else -1)).astype(np.float32)
    result, (loss, gradient) = (
        found(bottoms, activation=activation),
        oracle.dice(*bottoms.values(), activation=activation),
    )
    assert result.loss == pytest.approx(loss, rel=1e-6, abs=0)
    assert np.abs(result.diffs["scores"] - gradient).max() <= 1e-6 * np.abs(gradient).max()


def test_a_class_of_nothing_counts_as_1_without_a_gradient():
    """Without smooth, a class that no label has, and with a probability of 0 everywhere."""
    scores = np.zeros((2, 3, 4), np.float32)
    scores[:, 0] = 0.5
    bottoms = {"scores": scores, "label": np.zeros((2, 4), np.float32)}
    for exponent in (1, 2):
        options = {"activation": "NONE", "exponent": exponent, "smooth": 0}
        result = found(bottoms, **options)
        assert_matches(result, oracle.dice(*bottoms.values(), **options))
        assert not result.diffs["scores"][:, 1:].any()


def test_all_ignored_is_0():
    bottoms = inputs((2, 3, 4))
    bottoms["label"][:] = 255
    for smooth in (0, 1):
        result = found(bottoms, smooth=smooth, ignore_label=255)
        assert result.loss == 0
        assert not result.diffs["scores"].any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ignored_labels_get_no_gradient_whatever_their_scores(activation):
    bottoms = inputs((2, 3, 4), activation)
    bottoms["label"][0, 1], bottoms["scores"][0, :, 1] = 255, np.nan
    result = found(bottoms, activation=activation, ignore_label=255)
    assert np.isfinite(result.loss)
    assert not result.diffs["scores"][0, :, 1].any()
    assert result.diffs["scores"][1].all()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 1, 6), {}, r"\(scores\) has shape \(4, 1, 6\), expected more than one class along axis 1, or .*SIGMOID"),
        ((4, 3), {"background": 3}, r'key "background" must be from 0 to 2, found 3'),
        ((4, 3), {"background": -1}, r'key "background" must be from 0 to 2, found -1'),
        (
            (4, 1),
            {"background": 0, "activation": "NONE"},
            r'"background" must be left out, as there is one class, found 0',
        ),
        ((4, 4), {"per_item": True, "axis": 0}, r'"per_item" must be false where "axis" is 0'),
        ((4, 3), {"exponent": 3}, r'"exponent" must be a whole number from 1 to 2'),
        ((4, 3), {"smooth": -1}, r'"smooth" must be a finite number, at least 0'),
    ],
)
def test_refuses_options(shape, options, message):
    with pytest.raises(ValueError, match=message):
        found(inputs(shape, axis=options.get("axis", 1)), **options)


@pytest.mark.engines("numba", "formula")
@pytest.mark.parametrize(("channels", "most"), [(3, 2), (1, 1)])
def test_refuses_a_wrong_label(channels, most):
    bottoms = inputs((4, channels, 5))
    bottoms["label"][2, 1] = 3
    with pytest.raises(ValueError, match=rf"\(label\) holds 3 at \(2, 1\); a label must be .* from 0 to {most}"):
        found(bottoms, activation="SIGMOID")


@pytest.mark.parametrize(
    "options", [{}, {"per_item": True}, {"exponent": 1, "background": 0}, {"activation": "SIGMOID"}]
)
def test_gradient(options):
    text = f"""type: 'Python' python_param {{
        module: 'pylayers' layer: 'DiceLossLayer' param_str: '{json.dumps(options)}' }}"""
    assert_gradient(text, bottoms=[(4, 3, 5), (4, 5)], labels={1: 3})
