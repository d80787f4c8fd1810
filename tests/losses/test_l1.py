"""L1LossLayer against the formula in float64, and against Caffe's Reduction."""

import json

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_matches, assert_same_results
from harness.nets import L1, python_layer, run

from pylayers.gradient_check import assert_gradient

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize("weight", [None, (4,), (4, 3, 5), (4, 15)])
def test_matches_float64(weight, normalization):
    bottoms = {"pred": normal(4, 3, 5), "target": normal(4, 15)}
    if weight:
        bottoms["weight"] = abs(normal(*weight))
    options = {"normalization": normalization}
    found = run(python_layer(L1, bottoms, json.dumps(options), loss_weight=3), bottoms)
    assert_matches(found, oracle.l1(*bottoms.values(), **options), 3)


def test_gradient_is_0_where_equal():
    pred = normal(4, 5)
    target = np.where(np.eye(4, 5), pred, 0).astype(np.float32)
    bottoms = {"pred": pred, "target": target}
    found = run(python_layer(L1, bottoms), bottoms)
    assert ((found.diffs["pred"] == 0) == (pred == target)).all()
    assert ((found.diffs["target"] == 0) == (pred == target)).all()


def test_matches_reduction():
    bottoms = {"pred": normal(4, 3, 5), "target": normal(4, 3, 5)}
    text = (
        'layer { name: "difference" type: "Eltwise" bottom: "pred" bottom: "target" top: "difference" '
        "eltwise_param { coeff: 1 coeff: -1 } }"
        'layer { name: "loss" type: "Reduction" bottom: "difference" top: "loss" loss_weight: 1 '
        "reduction_param { operation: ASUM coeff: 0.25 } }"
    )
    assert_same_results(run(python_layer(L1, bottoms), bottoms), run(text, bottoms))


def test_gradient():
    """Each element has a kink where the two are equal."""
    text = "type: 'Python' python_param { module: 'pylayers' layer: 'L1LossLayer' }"
    assert_gradient(text, bottoms=[(4, 10), (4, 10), (4, 10)], constants=[2])
