"""check_gradient where forward is no plain function of its bottoms: noise, state, roughness, kinks, in place."""

import random

import numpy as np
import pytest

from pylayers.gradient_check import check_gradient

SHAPES = [(5, 4), (5, 4)]


def layer(name, options="", module="wrong_losses"):
    return f"type: 'Python' python_param {{ module: '{module}' layer: '{name}' param_str: '{options}' }}"


def verdicts(report):
    return [line.split()[0] for line in str(report).splitlines()]


def test_noise_is_no_pass():
    """The sign is wrong, and with noise all derivatives are within what shorter steps span."""
    report = check_gradient(layer("NoiseLayer"), SHAPES)
    assert not report.passed
    assert str(report).startswith("WRONG  forward is not repeatable: with the same bottoms and parameters, and ")


def test_numpys_and_pythons_generators_are_seeded_and_left_as_they_were():
    before = np.random.get_state()[1].tolist(), random.getstate()
    assert check_gradient(layer("SeededDropoutLayer"), SHAPES).passed
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [("RunningMeanLayer", "forward is not repeatable: "), ("LastSeenLayer", "forward keeps state: ")],
)
def test_state_between_forwards_is_found(name, message):
    report = check_gradient(layer(name), SHAPES[:1])
    assert not report.passed
    assert [violation.partition(message)[0] for violation in report.violations] == [""]
    assert check_gradient(layer(name, "TRAIN"), SHAPES[:1]).passed


def test_state_is_found_of_large_blobs_too():
    assert "forward keeps state" in str(check_gradient(layer("LastSeenLayer"), [(100, 400)]))


def test_a_forward_too_rough_to_tell_is_no_pass():
    report = check_gradient(layer("RoughLayer"), SHAPES)
    assert verdicts(report) == ["UNSURE", "UNSURE"]
    assert "forward is too rough to tell: its derivative is known to " in str(report)
    assert not report.passed


def test_kinks_beside_each_element_are_no_pass():
    """There the sign of either side is right; one element that lies elsewhere is enough to tell them apart."""
    pred = np.random.default_rng(0).normal(size=(3, 4))
    near = pred + 1e-4
    report = check_gradient(layer("L1LossLayer", module="user_losses"), [pred, near])
    assert verdicts(report) == ["UNSURE", "UNSURE"]
    assert "each element lies within a step of a kink" in str(report)
    near[0, 0] += 1
    assert check_gradient(layer("L1LossLayer", module="user_losses"), [pred, near]).passed


def test_a_forward_that_works_in_place_is_called_what_it_is():
    report = check_gradient(layer("InPlaceSoftmaxLayer"), [(5, 4)])
    assert verdicts(report) == ["ok", "WRONG"]
    assert report.violations[0].startswith("bottom[0]: forward changes its data, at (0, ")


def test_a_forward_that_writes_the_loss_weight_is_called_what_it_is():
    report = check_gradient(layer("OverwritesLossWeightLayer"), SHAPES)
    assert verdicts(report) == ["ok", "ok", "WRONG"]
    assert report.violations[0].startswith("top[0]: forward writes its diff, where Caffe keeps the loss weight")


def test_a_forward_that_reshapes_its_bottom_is_called_what_it_is():
    report = check_gradient(layer("ReshapingLayer"), [(3, 2, 2), (3, 2, 2)])
    assert verdicts(report) == ["ok", "ok", "WRONG"]
    assert "bottom[0]: forward changes its shape, from (3, 2, 2) to (3, 4)" in report.violations[0]


def test_derivatives_that_are_all_0_prove_nothing():
    report = check_gradient("type: 'EuclideanLoss'", SHAPES, loss_weight=0)
    assert not report.passed
    assert "nothing is proven: every derivative is 0" in str(report)


def test_setup_runs_once():
    from wrong_losses import PrintingLayer

    PrintingLayer.setups.clear()
    assert check_gradient(layer("PrintingLayer"), SHAPES).passed
    assert len(PrintingLayer.setups) == 1
