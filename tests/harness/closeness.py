"""The tolerances of the tests, each with its reason."""

import numpy as np

# float32 keeps 24 bits, 6e-8; sums of up to 100,000 such numbers in float32, as Caffe makes them, lose about
# ten times that.
RELATIVE = 1e-6

# InfogainLoss adds the terms of all pixels one after the other in float32. Over the 10,240 and 102,400 pixels of the
# demo's label maps that is 3e-6 and 8e-6 away from float64, and the Python loss 4e-8.
RELATIVE_OVER_PIXELS = 2e-5


def assert_close_loss(found, expected, relative=RELATIVE):
    """A loss within 1e-6 of its value, or within `relative`."""
    assert abs(found - expected) <= relative * abs(expected), f"loss {found}, expected {expected}"


def assert_close_gradient(found, expected):
    """A gradient within 1e-6 of the largest gradient."""
    assert found.shape == expected.shape
    error, largest = np.abs(found - expected).max(), np.abs(expected).max()
    assert error <= RELATIVE * largest, f"largest error {error}, largest gradient {largest}"


def assert_same_results(found, expected):
    """The loss and all gradients of two `nets.Result`."""
    assert_close_loss(found.loss, expected.loss)
    assert found.diffs.keys() == expected.diffs.keys()
    for name, diff in expected.diffs.items():
        assert_close_gradient(found.diffs[name], diff)


def assert_matches(found, expected, loss_weight=1):
    """A `nets.Result` against what the oracle gives: the loss, and the gradients of the bottoms that have one."""
    loss, *gradients = expected
    assert_close_loss(found.loss, loss)
    assert len(found.diffs) == len(gradients)
    for diff, gradient in zip(found.diffs.values(), gradients):
        assert_close_gradient(diff, loss_weight * gradient)
