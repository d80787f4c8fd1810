"""The float64 formulas of `pylayers compare` against the tests' own, which share no code with them."""

import itertools
from types import SimpleNamespace

import numpy as np
import oracle
import pytest

from pylayers.tools.compare import reference

# Both are float64; a sum of some hundred terms in another order differs by that much.
CLOSE = 1e-12
RANDOM = np.random.default_rng(0)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def assert_same(found, expected):
    loss, gradients = found
    np.testing.assert_allclose(loss, expected[0], rtol=CLOSE)
    given = [gradient for gradient in gradients if gradient is not None]
    assert len(given) == len(expected) - 1
    for gradient, right in zip(given, expected[1:]):
        assert gradient.shape == right.shape
        np.testing.assert_allclose(gradient, right, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize("weight_shape", [None, (4,), (4, 3, 5)])
def test_euclidean(normalization, weight_shape):
    bottoms = [normal(4, 3, 5), normal(4, 15)] + ([normal(*weight_shape)] if weight_shape else [])
    found = reference.euclidean(bottoms, SimpleNamespace(normalization=normalization))
    assert_same(found, oracle.euclidean(*bottoms, normalization=normalization))


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize(
    ("pred", "target", "axes"),
    [((4, 3, 5), (4, 1, 5), (1, 1)), ((4, 3, 5, 2), (4, 3, 6, 2), (2, 2)), ((4, 3, 5), (4, 1), (1, -1))],
)
def test_channel_sum_euclidean(normalization, pred, target, axes):
    bottoms = [normal(*pred), normal(*target)]
    options = {"axis": axes[0], "end_axis": axes[1], "normalization": normalization}
    found = reference.channel_sum_euclidean(bottoms, SimpleNamespace(**options))
    assert_same(found, oracle.channel_sum_euclidean(*bottoms, **options))


@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 5), 1), ((4, 5, 3), 1), ((2, 3, 5), -1), ((5, 4), 0)])
def test_weighted_softmax(normalization, shape, axis):
    positions = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]
    label = RANDOM.integers(0, 5, positions).astype(np.float32)
    label.flat[::3] = 255
    for class_weights, weight, ignore in itertools.product(
        (None, [1, 2, 0, 0.5, 3]), (None, np.abs(normal(*positions))), (None, 255)
    ):
        given = label if ignore else np.where(label == 255, 0, label)
        bottoms = [normal(*shape), given] + ([] if weight is None else [weight])
        options = {
            "axis": axis,
            "ignore_label": ignore,
            "class_weights": class_weights,
            "normalization": normalization,
        }
        found = reference.weighted_softmax(bottoms, SimpleNamespace(**options))
        assert_same(found, oracle.weighted_softmax(*bottoms, **options))


def test_weighted_softmax_without_any_weight_is_0():
    options = SimpleNamespace(axis=1, ignore_label=1, class_weights=None, normalization="WEIGHT_SUM")
    loss, (gradient, _) = reference.weighted_softmax([normal(2, 3), np.ones(2, np.float32)], options)
    assert loss == 0
    assert not gradient.any()


def test_weighted_softmax_with_one_weight_for_each_item():
    options = SimpleNamespace(axis=1, ignore_label=None, class_weights=None, normalization="VALID")
    bottoms = [normal(2, 3, 4), np.ones((2, 4), np.float32), normal(2)]
    assert_same(reference.weighted_softmax(bottoms, options), oracle.weighted_softmax(*bottoms))


def test_channel_sum_euclidean_ends_at_axis_by_default():
    bottoms = [normal(4, 3, 5, 2), normal(4, 3, 1, 2)]
    options = SimpleNamespace(axis=2, end_axis=None, normalization="BATCH_SIZE")
    found = reference.channel_sum_euclidean(bottoms, options)
    assert_same(found, oracle.channel_sum_euclidean(*bottoms, axis=2, end_axis=2))
