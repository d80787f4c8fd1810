"""check_gradient: right layers pass, and each kind of wrong gradient is caught."""

from types import SimpleNamespace

import caffe
import numpy as np
import pytest
from harness.losses import LOSSES
from harness.nets import SOFTMAX

from pylayers.caffe_nets import child
from pylayers.errors import UserError
from pylayers.gradient_check import assert_gradient, blobs, check_gradient


def python(layer, options="", module="pylayers"):
    return f"type: 'Python' python_param {{ module: '{module}' layer: '{layer}' param_str: '{options}' }}"


def wrong(layer):
    return python(layer, module="wrong_losses")


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("loss_weight", [0.3, -2])
def test_the_kits_losses_pass(loss, loss_weight):
    names = list(loss.shapes)
    bottoms = [(4, *shape) for shape in loss.shapes.values()]
    labels = {names.index("label"): loss.classes} if "label" in names else {}
    constants = [index for index, name in enumerate(names) if name.endswith("weight")]
    text = python(loss.name, loss.options, loss.module)
    report = check_gradient(text, bottoms, labels=labels, constants=constants, loss_weight=loss_weight)
    assert report.passed or (loss.classes == 1 and report.nothing_proven), str(report)


@pytest.mark.parametrize(
    ("text", "bottoms", "options"),
    [
        ("type: 'EuclideanLoss'", [(4, 10), (4, 10)], {}),
        ("type: 'SoftmaxWithLoss'", [(4, 10), (4,)], {"labels": {1: 10}}),
        ("type: 'InnerProduct' inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }", [(4, 10)], {}),
        (
            "type: 'Convolution' convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: 'xavier' } }",
            [(2, 3, 5, 5)],
            {},
        ),
        ("type: 'Sigmoid'", [(3, 4)], {}),
        ("type: 'BatchNorm' param { lr_mult: 0 }", [(4, 3, 2)], {"phase": caffe.TRAIN}),
        ("type: 'ReLU'", [(30, 40)], {"kink": 0, "kink_range": 0.05}),
        ("type: 'Dropout'", [(3, 40)], {"phase": caffe.TRAIN}),
        ("type: 'Eltwise' eltwise_param { operation: PROD }", [(3, 4), (3, 4)], {}),
    ],
)
def test_caffes_own_layers_pass(text, bottoms, options):
    assert_gradient(text, bottoms, **options)


@pytest.mark.parametrize(
    ("text", "bottoms", "options"),
    [
        (python("SigmoidCrossEntropyLossLayer"), [(4, 10), np.eye(4, 10)], {}),
        (python("SigmoidCrossEntropyLossLayer"), [(4, 10), (4, 10)], {"labels": {1: 2}}),
        (python("SigmoidCrossEntropyLossLayer"), [(4, 10), np.eye(4, 10)], {"constants": [1]}),
        (python("ArrayL1LossLayer", module="user_losses"), [(4, 10), np.full((4, 10), 9.0), np.ones((4, 10))], {}),
        ("type: 'SoftmaxWithLoss'", [(4, 10), np.arange(4)], {}),
    ],
)
def test_constants_are_known(text, bottoms, options):
    """Without a word of the caller's, as `pylayers check-gradient` does; they may be said all the same."""
    report = check_gradient(text, bottoms, **options)
    assert report.passed
    count = 2 if "ArrayL1" in text else 1
    assert [result.blob for result in report.results] == ["bottom[0]", "bottom[1]"][:count]


@pytest.mark.usefixtures("quick_children")
def test_a_layer_without_a_class_is_for_caffe_to_refuse():
    with pytest.raises(UserError, match="NoSuchLayer"):
        child.call(check_gradient, wrong("NoSuchLayer"), [(5, 4), (5, 4)], name="the layer")


@pytest.mark.parametrize(
    ("text", "options"),
    [("type: 'EuclideanLoss'", {"constants": [0, 1]}), (python("AllConstantLayer", module="wrong_losses"), {})],
)
def test_nothing_to_check_is_no_pass(text, options):
    with pytest.raises(ValueError, match="nothing to check: each bottom is a label or a constant"):
        check_gradient(text, [(4, 5), (4, 5)], **options)


def test_a_layers_parameters_are_enough_to_check():
    text = "type: 'InnerProduct' inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }"
    report = check_gradient(text, [(4, 5)], constants=[0])
    assert [result.blob for result in report.results] == ["blobs[0]", "blobs[1]"]
    assert report.passed


def test_large_blobs_go_along_directions():
    report = check_gradient(python(SOFTMAX), [(64, 100), (64,)], labels={1: 100})
    assert report.passed
    assert report.results[0].checked == 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(4, 5), (32, 10), (64, 100), (2, 3, 40, 40)])
@pytest.mark.parametrize("layer", ["L1LossLayer", "HuberLossLayer"])
def test_kinks_where_the_bottoms_are_equal_are_no_mistake(layer, shape, seed):
    report = check_gradient(python(layer, module="user_losses"), [shape, shape], seed=seed)
    assert report.passed, str(report)


@pytest.mark.parametrize("kind", ["ReLU", "HingeLoss"])
@pytest.mark.parametrize("size", [(30, 40), (60, 60)])
def test_kinks_of_caffes_own_layers_are_no_mistake(kind, size):
    labels = {1: size[1]} if kind == "HingeLoss" else {}
    report = check_gradient(f"type: '{kind}'", [size, *[size[:1]] * len(labels)], labels=labels)
    assert report.passed, str(report)
    assert report.results[0].beside > 0


@pytest.mark.parametrize("shape", [(4, 5), (32, 10), (64, 100)])
@pytest.mark.parametrize("layer", ["WrongBendLayer", "WrongSideLayer"])
def test_a_wrong_gradient_near_a_kink_is_caught(layer, shape):
    assert not check_gradient(python(layer, module="user_losses"), [shape, shape]).passed


@pytest.mark.parametrize("shape", [(30, 40), (64, 100)])
def test_a_wrong_sign_where_the_gradient_is_steep_is_caught(shape):
    assert not check_gradient(wrong("SteepLayer"), [shape]).passed


def test_a_wrong_gradient_beside_nan_is_caught():
    bottom = np.array([[-1.0, 0.5, -0.5, -0.8, 0.9885]], np.float32)  # a step is 0.0079
    report = check_gradient(wrong("BarrierLayer"), [bottom])
    assert not report.passed
    assert "(0, 4)" in str(report)


@pytest.mark.parametrize(
    ("text", "bottoms"),
    [
        ("type: 'SigmoidCrossEntropyLoss'", [(64, 100), np.eye(64, 100)]),
        (python("MarginLossLayer", module="user_losses"), [(32, 10)]),
    ],
)
def test_long_sums_and_many_kinks_are_no_mistake(text, bottoms):
    report = check_gradient(text, bottoms, constants=range(1, len(bottoms)))
    assert report.passed, str(report)


def test_kinks_are_skipped():
    report = check_gradient("type: 'ReLU'", [(30, 40)], kink=0, kink_range=0.05)
    assert report.results[0].skipped > 0
    assert report.results[0].checked + report.results[0].skipped == 1200


def test_kinks_are_skipped_along_directions_too():
    report = check_gradient("type: 'ReLU'", [(60, 60)], kink=0, kink_range=0.05)
    assert report.passed
    assert report.results[0].skipped > 0
    assert report.results[0].beside == 0


@pytest.mark.parametrize("layer", ["WrongSignLayer", "NoLossWeightLayer", "NoDivisionLayer", "OneWrongElementLayer"])
def test_catches_wrong_derivatives(layer):
    report = check_gradient(wrong(layer), [(25, 40), (25, 40)])
    assert not report.passed
    assert not report.violations
    assert "WRONG  bottom[0]: 1000 checked" in str(report)


@pytest.mark.parametrize("layer", ["WrongSignLayer", "NoLossWeightLayer", "NoDivisionLayer"])
def test_catches_wrong_derivatives_of_large_blobs(layer):
    report = check_gradient(wrong(layer), [(100, 40), (100, 40)])
    assert not report.passed
    assert "along random direction" in str(report)


def test_names_the_wrong_element():
    report = check_gradient(wrong("OneWrongElementLayer"), [(25, 40), (25, 40)])
    assert "at (3, 7), where backward says" in str(report)


def test_catches_a_gradient_that_nobody_asked_for():
    report = check_gradient(wrong("UnaskedLayer"), [(5, 4), (5, 4)])
    assert report.violations == [
        "bottom[0]: backward writes the diff although propagate_down[0] is false",
        "bottom[1]: backward writes the diff although propagate_down[1] is false",
    ]


def test_catches_a_gradient_that_is_added():
    report = check_gradient(wrong("AddedLayer"), [(5, 4), (5, 4)])
    assert [violation.split(":")[0] for violation in report.violations] == ["bottom[0]", "bottom[1]"]
    assert "backward adds to the diff" in str(report)


def test_catches_nan():
    assert "backward says nan" in str(check_gradient(wrong("NanLayer"), [(5, 4), (5, 4)]))


def test_restores_what_it_moves():
    values = [np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32) for _ in range(2)]
    first = check_gradient("type: 'EuclideanLoss'", values)
    second = check_gradient("type: 'EuclideanLoss'", values)
    assert first == second


def test_assert_gradient_shows_the_report():
    with pytest.raises(AssertionError, match=r"is wrong:\nWRONG  bottom\[0\]: 20 checked"):
        assert_gradient(wrong("WrongSignLayer"), [(5, 4), (5, 4)])


def test_rejects_text_that_is_no_layer():
    with pytest.raises(ValueError, match="this is no layer's prototxt text"):
        check_gradient("typo: 'EuclideanLoss'", [(5, 4), (5, 4)])


def test_rejects_an_index_out_of_range():
    with pytest.raises(ValueError, match="there is no bottom 2; the layer has 2, counted from 0"):
        check_gradient("type: 'EuclideanLoss'", [(5, 4), (5, 4)], labels={2: 10})


def test_catches_a_forward_that_is_not_finite():
    """A square root of ones and of one number so small that the step makes it negative."""
    bottom = np.ones((3, 4), np.float32)
    bottom[1, 2] = 0.001
    report = check_gradient("type: 'Power' power_param { power: 0.5 }", [bottom])
    assert not report.passed
    assert "at (1, 2), where forward is not finite" in str(report)


def test_nothing_checked_is_no_pass():
    report = check_gradient("type: 'ReLU'", [(3, 4)], kink_range=100)
    assert not report.passed
    assert "nothing is checked" in str(report)


def test_frozen_parameters_are_checked_too():
    fields = "num_output: 3 weight_filler { type: 'xavier' }"
    assert_gradient(f"type: 'InnerProduct' param {{ lr_mult: 0 }} inner_product_param {{ {fields} }}", [(4, 10)])


@pytest.mark.parametrize(
    ("nearer", "noise"), [([1.02, 1, 1.04], 0.08), ([1, np.inf, 1], 0.001), ([1, 1, np.nan], 0.001)]
)
def test_shorter_steps_that_are_not_finite_excuse_nothing(nearer, noise):
    steps = iter(nearer)
    row = blobs.Row(..., 1, "a direction", expected=2.0, numeric=1.0, noise=0.001)
    probe = SimpleNamespace(central=lambda *_: row._replace(numeric=next(steps)))
    assert blobs.as_sure_as_shorter_steps(probe, row).noise == pytest.approx(noise)


def test_catches_a_missing_loss_weight_where_it_is_1():
    report = check_gradient(wrong("NoLossWeightLayer"), [(4, 5), (4, 5)], loss_weight=1)
    assert all(result.error <= result.tolerance for result in report.results)
    assert len(report.violations) == 2
    assert "bottom[1]: twice the top's diff (for a loss: its loss weight) does not give twice" in report.violations[1]
