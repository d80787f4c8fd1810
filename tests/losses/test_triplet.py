"""TripletLossLayer against the formula in float64, and against a net of Caffe's own layers."""

import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_matches
from harness.nets import TRIPLET, python_layer, run

from pylayers.gradient_check import assert_gradient

RANDOM = np.random.default_rng(0)


def inputs(*shape):
    return {name: RANDOM.normal(size=shape).astype(np.float32) for name in ("anchor", "positive", "negative")}


def found(bottoms, loss_weight=1, **options):
    return run(python_layer(TRIPLET, bottoms, json.dumps(options), loss_weight=loss_weight), bottoms)


@pytest.mark.parametrize("weight", [None, (6,), (6, 1)])
@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "ACTIVE"])
@pytest.mark.parametrize("margin", [0, 0.2, 1, 5])
@pytest.mark.parametrize("shape", [(6, 5), (6,), (6, 3, 4, 5)])
def test_matches_float64(shape, margin, normalization, weight):
    bottoms = inputs(*shape)
    if weight:
        bottoms["weight"] = RANDOM.random(weight).astype(np.float32)
    options = {"margin": margin, "normalization": normalization}
    assert_matches(found(bottoms, -0.3, **options), oracle.triplet(*bottoms.values(), **options), -0.3)


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "ACTIVE"])
def test_triplets_that_are_apart_count_for_nothing(normalization):
    bottoms = inputs(6, 5)
    bottoms["positive"] = bottoms["anchor"].copy()
    bottoms["negative"] = bottoms["anchor"] + 9
    result = found(bottoms, normalization=normalization)
    assert result.loss == 0
    assert not any(diff.any() for diff in result.diffs.values())


def test_a_term_of_0_has_no_gradient():
    """Positive and negative are equally far, and there is no margin."""
    bottoms = inputs(6, 5)
    bottoms["negative"] = bottoms["positive"].copy()
    result = found(bottoms, margin=0)
    assert result.loss == 0
    assert not any(diff.any() for diff in result.diffs.values())


@pytest.mark.parametrize("size", [1e-4, 1e4])
def test_distances_that_nearly_cancel(size):
    bottoms = {name: (size * array).astype(np.float32) for name, array in inputs(50, 20).items()}
    bottoms["negative"] = (bottoms["positive"] * np.float32(1 + 1e-6)).astype(np.float32)
    assert_matches(found(bottoms), oracle.triplet(*bottoms.values()))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_shows_in_the_loss():
    bottoms = inputs(6, 5)
    bottoms["anchor"][0, 0] = np.nan
    bottoms["negative"] = bottoms["anchor"] + 9
    result = found(bottoms)
    assert np.isnan(result.loss)
    assert np.isnan(result.diffs["positive"][0]).any()
    assert np.isfinite(result.diffs["positive"][1:]).all()


def test_refuses_other_shapes():
    bottoms = inputs(6, 5)
    with pytest.raises(
        ValueError, match=r"bottom\[2\] \(negative\) has shape \(6, 4\), expected \(6, 5\), as bottom\[0\]"
    ):
        found({**bottoms, "negative": bottoms["negative"][:, :4].copy()})
    with pytest.raises(
        ValueError, match=r"bottom\[3\] \(weight\) has shape \(6, 5\), expected 6 weights, one for each t"
    ):
        found({**bottoms, "weight": bottoms["anchor"]})
    with pytest.raises(ValueError, match=r'"margin" must be a finite number, at least 0'):
        found(bottoms, margin=-1)


@pytest.mark.parametrize("options", [{}, {"margin": 0.2, "normalization": "ACTIVE"}])
def test_gradient(options):
    """Each triplet has a kink where its term is 0; with ACTIVE the loss jumps there, which no difference can tell."""
    text = f"""type: 'Python' python_param {{
        module: 'pylayers' layer: 'TripletLossLayer' param_str: '{json.dumps(options)}' }}"""
    random = np.random.default_rng(2)
    bottoms = [random.normal(size=(6, 5)) for _ in range(3)]
    assert_gradient(text, bottoms=[*bottoms, np.ones(6)], constants=[3])
