import numpy as np
import pytest

from pylayers.gradient_check import assert_gradient

LAYER = """type: "Python"
python_param { module: "log_cosh_loss" layer: "LogCoshLossLayer" param_str: '{"scale": %s}' }"""


@pytest.mark.parametrize("scale", [0.5, 1, 20])
def test_gradient(scale):
    assert_gradient(LAYER % scale, bottoms=[(16, 5), (16, 5)])


def test_gradient_far_from_zero():
    pred = np.random.default_rng(0).normal(size=(16, 5)) * 20
    assert_gradient(LAYER % 1, bottoms=[pred, (16, 5)], loss_weight=-3)
