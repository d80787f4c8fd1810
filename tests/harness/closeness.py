"""The tolerances of the tests, each with its reason."""

import numpy as np

# float32 keeps 24 bits, 6e-8; sums of up to 100,000 such numbers in float32, as Caffe makes them, lose about
# ten times that.
RELATIVE = 1e-6


def assert_close_loss(found, expected):
    """A loss within 1e-6 of its value."""
    assert abs(found - expected) <= RELATIVE * abs(expected), f"loss {found}, expected {expected}"


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
