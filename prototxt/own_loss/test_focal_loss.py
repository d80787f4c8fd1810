import numpy as np
import pytest

from pylayers.gradient_check import assert_gradient

LAYER = """type: "Python"
python_param { module: "focal_loss" layer: "FocalLossLayer" param_str: '{"gamma": %s}' }"""


@pytest.mark.parametrize("gamma", [0, 2, 5])
def test_gradient(gamma):
    assert_gradient(LAYER % gamma, bottoms=[(16, 5), (16, 5)], labels={1: 2})


def test_gradient_far_from_zero():
    scores = np.random.default_rng(0).normal(size=(16, 5)) * 20
    assert_gradient(LAYER % 2, bottoms=[scores, (16, 5)], labels={1: 2}, loss_weight=-3)
