"""check_gradient names the cause where backward is the same multiple of forward everywhere."""

import numpy as np
import pytest

from pylayers.gradient_check import cause, check_gradient


def python(layer, module="wrong_losses"):
    return f"type: 'Python' python_param {{ module: '{module}' layer: '{layer}' }}"


@pytest.mark.parametrize("shape", [(5, 4), (70, 40)])
@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("WrongSignLayer", "−1 × forward everywhere: the sign"),
        ("NoLossWeightLayer", "3.33 × forward everywhere = 1 / loss weight: it ignores top[0].diff"),
        ("NoDivisionLayer", "{} × forward everywhere = N: it lacks the 1/N that forward has"),
        ("NoHalfLayer", "0.5 × forward everywhere = 1/2: it has a 1/2 that forward lacks"),
        ("TwoMistakesLayer", "−3.33 × forward everywhere = −1 / loss weight: the sign, and it ignores top[0].diff"),
    ],
)
def test_names_the_cause(layer, said, shape):
    report = check_gradient(python(layer), [shape, shape])
    assert [result.cause for result in report.results] == [f"backward is {said.format(shape[0])}"] * 2


def test_kinks_do_not_hide_the_cause():
    text = "type: 'Python' python_param { module: 'user_losses' layer: 'HuberLossLayer' }"
    bottoms = [np.linspace(-2, 2, 40).reshape(4, 10), np.zeros((4, 10))]
    assert [result.cause for result in check_gradient(text, bottoms).results] == ["", ""]
    text = text.replace("HuberLossLayer", "WeightlessHuberLayer")
    assert "1 / loss weight" in check_gradient(text, bottoms, constants=[1]).results[0].cause


@pytest.mark.parametrize("layer", ["OneWrongElementLayer", "NanLayer"])
def test_says_nothing_where_there_is_no_common_factor(layer):
    report = check_gradient(python(layer), [(5, 8), (5, 8)])
    assert [result.cause for result in report.results] == ["", ""]
    assert not report.passed


@pytest.mark.parametrize(
    ("names", "called"), [("", "bottom[1]"), ("bottom: 'pred' bottom: 'boxes'", "boxes")], ids=["none", "in a net"]
)
def test_a_bottom_without_a_gradient_asks_for_constant(names, called):
    report = check_gradient(f"{names} {python('NoTargetGradientLayer')}", [(5, 4), (5, 4)])
    assert report.results[1].cause.endswith(f": --constant 1 if {called} has no gradient (in Python, constants=[1])")
    assert not report.violations
    assert check_gradient(python("NoTargetGradientLayer"), [(5, 4), (5, 4)], constants=[1]).passed


def test_two_factors_and_a_number_that_is_none():
    known = cause.factors(0.3, (7, 4))
    numeric = np.array([1.0, -2.0, 0.5, 0.001])
    assert "= 1 / loss weight · N: it ignores top[0].diff, and it lacks the 1/N" in cause.find(
        7 / 0.3 * numeric, numeric, known
    )
    assert cause.find(1.1 * numeric, numeric, known) == "backward is 1.1 × forward everywhere"
    assert cause.find(numeric, numeric, known) == ""
    assert cause.find(numeric[:2] * 3, numeric[:2], known) == ""  # two ratios may be the same by chance


def test_kinks_may_set_a_tenth_apart_and_not_more():
    numeric = np.linspace(1, 2, 20)
    backward = -numeric
    backward[:2] = 0.7
    assert cause.find(backward, numeric, []) == "backward is −1 × forward everywhere: the sign"
    backward[:4] = 0.7
    assert cause.find(backward, numeric, []) == ""
