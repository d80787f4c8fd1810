"""What the loops and the formula are more likely to get wrong than other code: shapes, sums, and what is not finite."""

import math

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_close_gradient, assert_close_loss
from harness.losses import peak_memory
from harness.nets import CHANNEL_SUM, EUCLIDEAN, SOFTMAX, python_layer, run

loops = pytest.mark.engines("numba", "formula")


@loops
@pytest.mark.parametrize(
    "shape",
    [(3, 1500), (3, 2), (40, 33, 2), (2, 1000, 7, 7), (2, 97, 3), (3, 5, 300), (2, 70, 513), (2, 3, 1025), (1, 1, 600)],
)
def test_softmax_of_any_shape(shape):
    random = np.random.default_rng(0)
    scores = random.normal(size=shape).astype(np.float32)
    label = random.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.float32)
    label.flat[0] = 255
    bottoms = {"scores": scores, "label": label}
    found = run(python_layer(SOFTMAX, bottoms, '{"ignore_label": 255}', tops=["loss", "prob"]), bottoms)
    loss, gradient = oracle.weighted_softmax(scores, label, ignore_label=255)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)
    exp = np.exp(scores.astype(float))
    np.testing.assert_allclose(found.net.blobs["prob"].data, exp / exp.sum(axis=1, keepdims=True), rtol=1e-6)


@loops
@pytest.mark.parametrize("shape", [(3, 70), (3, 70, 2), (3, 7, 600)])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 5])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_scores_that_are_not_finite_show_in_the_loss(where, value, shape):
    scores = np.zeros(shape, np.float32)
    scores[1, where, ...] = value
    bottoms = {"scores": scores, "label": np.zeros((3, *shape[2:]), np.float32)}
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    assert np.isnan(found.loss)
    assert np.isnan(found.diffs["scores"][1]).any()
    assert np.isfinite(found.diffs["scores"][[0, 2]]).all()


@loops
@pytest.mark.parametrize("shape", [(3, 70), (3, 70, 2), (3, 7, 600)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ignored_positions_get_no_gradient_whatever_their_scores(shape):
    scores = np.zeros(shape, np.float32)
    scores[1] = np.nan
    label = np.zeros((3, *shape[2:]), np.float32)
    label[1] = 255
    bottoms = {"scores": scores, "label": label}
    found = run(python_layer(SOFTMAX, bottoms, '{"ignore_label": 255}'), bottoms)
    assert_close_loss(found.loss, math.log(shape[1]))
    assert not found.diffs["scores"][1].any()


@pytest.mark.engines("numba")
@pytest.mark.parametrize(("name", "share"), [(EUCLIDEAN, 0.01), (CHANNEL_SUM, 0.01), (SOFTMAX, 0.02)])
def test_numbas_loops_need_little_memory(name, share):
    """Softmax keeps three numbers for each position, and has 500 classes here."""
    assert peak_memory(name) < share


CONSTANTS = [0.3, 0.7, 1 / 3]  # all roundings of a sum go one way


@loops
@pytest.mark.parametrize("weight", [None, 0.9])
@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("size", [1, 255, 257, 2049, 100000])
def test_euclidean_sums_of_constants(size, constant, weight):
    bottoms = {"pred": np.full((2, size), constant, np.float32), "target": np.zeros((2, size), np.float32)}
    if weight:
        bottoms["weight"] = np.full((2, size), weight, np.float32)
    assert_close_loss(run(python_layer(EUCLIDEAN, bottoms), bottoms).loss, oracle.euclidean(*bottoms.values())[0])


@loops
@pytest.mark.parametrize("gap", [5, 12, 20, 72.375])
@pytest.mark.parametrize("shape", [(2, 1000), (1, 100000), (1, 1000, 2), (1, 10001, 3), (1, 3000, 600)])
def test_softmax_sums_of_constants(shape, gap):
    """A label far above all others, whose small sum is the loss."""
    scores = np.zeros(shape, np.float32)
    scores[:, 3] = gap
    bottoms = {"scores": scores, "label": np.full((shape[0], *shape[2:]), 3, np.float32)}
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    small = math.exp(-gap)
    others = (shape[1] - 1) * small
    assert_close_loss(found.loss, math.log1p(others))
    gradient = np.full(shape, small / (1 + others))
    gradient[:, 3] = -others / (1 + others)
    assert_close_gradient(found.diffs["scores"], gradient / bottoms["label"].size)
