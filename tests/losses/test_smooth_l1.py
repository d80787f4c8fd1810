"""SmoothL1LossLayer against the formula in float64, and against a net of built-in layers."""

import itertools
import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_matches
from harness.nets import SMOOTH_L1, python_layer, run

from pylayers.gradient_check import assert_gradient

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize("sigma", [0.5, 1, 3])
def test_matches_float64(sigma, normalization):
    for inside, outside in itertools.product((None, (4,), (4, 3, 5)), repeat=2):
        bottoms = {"pred": 2 * normal(4, 3, 5), "target": normal(4, 15)}
        if inside or outside:
            bottoms["inside_weight"] = abs(normal(*(inside or (4,))))
        if outside:
            bottoms["outside_weight"] = abs(normal(*outside))
        options = {"sigma": sigma, "normalization": normalization}
        found = run(python_layer(SMOOTH_L1, bottoms, json.dumps(options), loss_weight=-0.7), bottoms)
        assert_matches(found, oracle.smooth_l1(*bottoms.values(), **options), -0.7)


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_residuals_of_any_size(scale):
    bottoms = {"pred": (scale * normal(4, 300)).astype(np.float32), "target": np.zeros((4, 300), np.float32)}
    found = run(python_layer(SMOOTH_L1, bottoms), bottoms)
    loss, *gradients = oracle.smooth_l1(*bottoms.values())
    if scale > 1e-20:  # below, the square is less than the smallest float32
        assert_matches(found, (loss, *gradients))
    else:
        np.testing.assert_allclose(found.diffs["pred"], gradients[0], rtol=1e-6)


@pytest.mark.parametrize("sigma", [1e-30, 1e-200, 1e20, 1e30, 1e200])
def test_any_sigma(sigma):
    """With a large one it is the L1 loss, with a small one it is 0."""
    bottoms = {"pred": normal(4, 5), "target": normal(4, 5)}
    bottoms["target"][0] = bottoms["pred"][0]
    found = run(python_layer(SMOOTH_L1, bottoms, json.dumps({"sigma": sigma})), bottoms)
    expected = oracle.l1(*bottoms.values()) if sigma > 1 else (0, np.zeros((4, 5)), np.zeros((4, 5)))
    assert_matches(found, expected)


def test_inside_weight_of_0_leaves_elements_out():
    bottoms = {"pred": normal(4, 8), "target": normal(4, 8), "inside_weight": np.eye(4, 8, dtype=np.float32)}
    found = run(python_layer(SMOOTH_L1, bottoms), bottoms)
    assert ((found.diffs["pred"] != 0) == (bottoms["inside_weight"] == 1)).all()


@pytest.mark.parametrize("sigma", [1, 3])
def test_gradient(sigma):
    """The derivative has its kinks at ±1/σ²; the checker takes them for what they are."""
    text = f"""type: 'Python' python_param {{
        module: 'pylayers' layer: 'SmoothL1LossLayer' param_str: '{{"sigma": {sigma}}}' }}"""
    assert_gradient(text, bottoms=[(4, 10), (4, 10), (4, 10), (4,)], constants=[2, 3])


@pytest.mark.parametrize("sigma", [0, -1])
def test_refuses_sigma(sigma):
    bottoms = {"pred": normal(4, 5), "target": normal(4, 5)}
    with pytest.raises(
        ValueError, match=r'SmoothL1LossLayer: param_str key "sigma" must be a finite number, above 0, f'
    ):
        run(python_layer(SMOOTH_L1, bottoms, json.dumps({"sigma": sigma})), bottoms)


def test_refuses_weights_of_another_number():
    bottoms = {"pred": normal(4, 5), "target": normal(4, 5), "weight": normal(4), "other": normal(4, 3)}
    with pytest.raises(ValueError, match=r"bottom\[3\] \(outside_weight\) has shape \(4, 3\), expected 20 weights"):
        run(python_layer(SMOOTH_L1, bottoms), bottoms)
