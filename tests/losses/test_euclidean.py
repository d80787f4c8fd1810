"""EuclideanLossLayer against Caffe's EuclideanLoss and against the formula in float64."""

import re

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_close_gradient, assert_close_loss, assert_same_results
from harness.nets import EUCLIDEAN, layer, python_layer, run

from pylayers.runtime import tiles

SHAPES = [(4, 10), (1, 1), (1, 7), (7,), (3, 4, 5, 6), (100, 1000)]


def blobs(shape, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name in ("pred", "target")}


@pytest.mark.parametrize("loss_weight", [1, 0.3, -2])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_builtin(shape, loss_weight):
    bottoms = blobs(shape)
    builtin = run(layer("EuclideanLoss", bottoms, loss_weight=loss_weight), bottoms)
    assert_same_results(run(python_layer(EUCLIDEAN, bottoms, loss_weight=loss_weight), bottoms), builtin)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_has_the_builtin_bits_at_loss_weight_1(shape):
    bottoms = blobs(shape)
    found = run(python_layer(EUCLIDEAN, bottoms), bottoms).diffs
    expected = run(layer("EuclideanLoss", bottoms), bottoms).diffs
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_matches_builtin_where_only_the_counts_agree():
    bottoms = blobs((4, 6))
    bottoms["target"] = bottoms["target"].reshape(4, 2, 3)
    builtin = run(layer("EuclideanLoss", bottoms), bottoms)
    assert_same_results(run(python_layer(EUCLIDEAN, bottoms), bottoms), builtin)


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize("weight_shape", [None, (3, 4, 5, 6), (3,), (3, 1, 1, 1)])
def test_matches_oracle(normalization, weight_shape):
    bottoms = blobs((3, 4, 5, 6))
    weight = None
    if weight_shape:
        weight = bottoms["weight"] = np.random.default_rng(1).normal(size=weight_shape).astype(np.float32)
    found = run(python_layer(EUCLIDEAN, bottoms, f'{{"normalization": "{normalization}"}}'), bottoms)
    loss, *gradients = oracle.euclidean(bottoms["pred"], bottoms["target"], weight, normalization)
    assert_close_loss(found.loss, loss)
    for name, gradient in zip(("pred", "target"), gradients):
        assert_close_gradient(found.diffs[name], gradient)


@pytest.mark.engines("numba", "formula")  # it takes seconds, and is about Caffe's CPU code
def test_large_blob_is_exact_where_the_builtin_is_not():
    bottoms = blobs((8, 21, 256, 256))
    loss, *_ = oracle.euclidean(bottoms["pred"], bottoms["target"])
    assert_close_loss(run(python_layer(EUCLIDEAN, bottoms), bottoms).loss, loss)
    builtin = run(layer("EuclideanLoss", bottoms), bottoms).loss
    assert abs(builtin - loss) > 1e-6 * loss  # if this fails, the sentence about it in the README has to go


def test_rejects_different_counts():
    bottoms = blobs((4, 10))
    bottoms["target"] = bottoms["target"][:, :9]
    with pytest.raises(
        ValueError,
        match=r"EuclideanLossLayer: bottom\[1\] \(target\) has shape \(4, 9\), expected as many elements as "
        r"bottom\[0\] \(pred\), whose shape is \(4, 10\)",
    ):
        run(python_layer(EUCLIDEAN, bottoms), bottoms)


@pytest.mark.parametrize("shape", [(4, 5), (4, 1, 2), (4, 40)])
def test_rejects_weights_of_another_count(shape):
    bottoms = {**blobs((4, 10)), "weight": np.ones(shape, np.float32)}
    message = rf"bottom\[2\] \(weight\) has shape {re.escape(str(shape))}, expected 40 weights, .* or 4, "
    with pytest.raises(ValueError, match=message):
        run(python_layer(EUCLIDEAN, bottoms), bottoms)


def test_rejects_a_normalization_of_another_loss():
    bottoms = blobs((4, 10))
    with pytest.raises(ValueError, match='"normalization" must be one of "BATCH_SIZE", "FULL", "NONE", found "VALID"'):
        run(python_layer(EUCLIDEAN, bottoms, '{"normalization": "VALID"}'), bottoms)


@pytest.mark.parametrize("weight_shape", [None, (3, 4, 5, 6), (3,)])
@pytest.mark.parametrize("size", [1, 50, 200])
def test_any_pieces_match_oracle(size, weight_shape, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", size)
    monkeypatch.setattr(tiles, "SHORT", 1)
    bottoms = blobs((3, 4, 5, 6))
    if weight_shape:
        bottoms["weight"] = np.random.default_rng(1).normal(size=weight_shape).astype(np.float32)
    found = run(python_layer(EUCLIDEAN, bottoms), bottoms)
    loss, *gradients = oracle.euclidean(*bottoms.values())
    assert_close_loss(found.loss, loss)
    for name, gradient in zip(("pred", "target"), gradients):
        assert_close_gradient(found.diffs[name], gradient)
