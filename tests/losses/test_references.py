"""Each layer's `reference`, its formula in float64, against the tests' oracle, which shares no code with it."""

import itertools
import json

import numpy as np
import pytest
from harness import oracle
from harness.nets import CHANNEL_SUM, EUCLIDEAN, SOFTMAX, load, loss_index, net_text, python_layer

# Both are float64; a sum of some hundred terms in another order differs by that much.
CLOSE = 1e-12
RANDOM = np.random.default_rng(0)


pytestmark = pytest.mark.engines("formula")


def reference(name, bottoms, **options):
    """What a layer's `reference` gives for bottoms, in a real net."""
    names = ("scores", "label", "weight") if name == SOFTMAX else ("pred", "target", "weight")
    bottoms = dict(zip(names, bottoms))
    param_str = json.dumps({key: value for key, value in options.items() if value is not None})
    net = load(net_text(python_layer(name, bottoms, param_str), bottoms))
    return net.layers[loss_index(net)].reference(list(bottoms.values()))


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
    found = reference(EUCLIDEAN, bottoms, normalization=normalization)
    assert_same(found, oracle.euclidean(*bottoms, normalization=normalization))


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize(
    ("pred", "target", "axes"),
    [((4, 3, 5), (4, 1, 5), (1, 1)), ((4, 3, 5, 2), (4, 3, 6, 2), (2, 2)), ((4, 3, 5), (4, 1), (1, -1))],
)
def test_channel_sum_euclidean(normalization, pred, target, axes):
    bottoms = [normal(*pred), normal(*target)]
    options = {"axis": axes[0], "end_axis": axes[1], "normalization": normalization}
    found = reference(CHANNEL_SUM, bottoms, **options)
    assert_same(found, oracle.channel_sum_euclidean(*bottoms, **options))


@pytest.mark.parametrize("normalization", ["VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 5), 1), ((4, 5, 3), 1), ((2, 3, 5), -1), ((5, 5), 0)])
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
        found = reference(SOFTMAX, bottoms, **options)
        assert_same(found, oracle.weighted_softmax(*bottoms, **options))


def test_weighted_softmax_without_any_weight_is_0():
    bottoms = [normal(2, 3), np.ones(2, np.float32)]
    loss, (gradient, _) = reference(SOFTMAX, bottoms, ignore_label=1, normalization="WEIGHT_SUM")
    assert loss == 0
    assert not gradient.any()


def test_weighted_softmax_with_one_weight_for_each_item():
    bottoms = [normal(2, 3, 4), np.ones((2, 4), np.float32), normal(2)]
    assert_same(reference(SOFTMAX, bottoms), oracle.weighted_softmax(*bottoms))


def test_channel_sum_euclidean_ends_at_axis_by_default():
    bottoms = [normal(4, 3, 5, 2), normal(4, 3, 1, 2)]
    found = reference(CHANNEL_SUM, bottoms, axis=2)
    assert_same(found, oracle.channel_sum_euclidean(*bottoms, axis=2, end_axis=2))
