"""What check_gradient fills bottoms with: what the layer takes, or it asks."""

import numpy as np
import pytest

from pylayers.errors import UserError
from pylayers.gradient_check import check_gradient, inputs

LSTM = "recurrent_param { num_output: 2 weight_filler { type: 'uniform' min: -0.5 max: 0.5 } }"


@pytest.mark.parametrize(
    ("text", "bottoms", "checked"),
    [
        ("type: 'Log' log_param { base: 10 scale: -2 shift: 3 }", [(4, 5)], [0]),
        ("type: 'Power' power_param { power: 0.5 shift: 1 }", [(4, 5)], [0]),
        ("type: 'Power' power_param { power: 3 }", [(4, 5)], [0]),
        ("type: 'MultinomialLogisticLoss'", [(4, 5), (4,)], [0]),
        ("type: 'SigmoidCrossEntropyLoss'", [(4, 5), (4, 5)], [0]),
        ("type: 'ContrastiveLoss'", [(6, 5), (6, 5), (6,)], [0, 1]),
        ("type: 'SoftmaxWithLoss' softmax_param { axis: -1 }", [(4, 3, 5), (4, 3)], [0]),
        ("type: 'HingeLoss'", [(4, 5), (4,)], [0]),
        ("type: 'InfogainLoss'", [(4, 5), (4,), (1, 1, 5, 5)], [0]),
        ("type: 'BatchReindex'", [(4, 5), (6,)], [0]),
        ("type: 'Filter'", [(8, 5), (8,)], [0]),
        ("type: 'Crop' crop_param { axis: 1 }", [(4, 5), (4, 3)], [0]),
        (f"type: 'LSTM' {LSTM}", [(3, 2, 4), (3, 2)], [0]),
    ],
    ids=lambda value: value.split("'")[1] if isinstance(value, str) else "",
)
def test_caffes_own_layers_get_what_they_take(text, bottoms, checked):
    report = check_gradient(text, bottoms)
    assert report.passed, str(report)
    names = [result.blob for result in report.results if result.blob.startswith("bottom")]
    assert names == [f"bottom[{index}]" for index in checked]


def values(text, *shapes):
    return inputs.draw(inputs.layer_parameter(text), shapes, {}, np.random.default_rng(0))


def test_targets_are_from_0_to_1():
    _, target = values("type: 'SigmoidCrossEntropyLoss'", (4, 5), (4, 5))
    assert 0 < target.min() < 0.2 < 0.8 < target.max() < 1


@pytest.mark.parametrize("margin", [1, 5])
def test_pairs_lie_on_both_sides_of_the_margin_and_are_similar_or_not(margin):
    shapes = [(100, 8), (100, 8), (100,)]
    a, b, similar = values(f"type: 'ContrastiveLoss' contrastive_loss_param {{ margin: {margin} }}", *shapes)
    assert set(similar) == {0, 1}
    assert 25 < np.sum(np.linalg.norm(a - b, axis=1) < margin) < 75


def test_embed_is_checked_by_its_parameters():
    fields = "num_output: 2 input_dim: 7 weight_filler { type: 'uniform' }"
    report = check_gradient(f"type: 'Embed' embed_param {{ {fields} }}", [(5,)])
    assert [result.verdict for result in report.results] == ["ok", "ok"]
    assert report.passed


def test_labels_of_a_loss_are_asked_for():
    text = "type: 'Python' python_param { module: 'user_losses' layer: 'LabelledLossLayer' }"
    with pytest.raises(UserError, match=r"bottom\[1\] \(label\) holds labels: give --labels 1:CLASSES, such as 1:10"):
        check_gradient(text, [(4, 5), (4, 5)])
    assert check_gradient(text, [(4, 5), (4, 5)], labels={1: 2}).passed
    assert check_gradient(text, [(4, 5), np.ones((4, 5))]).passed


@pytest.mark.parametrize(
    ("name", "label", "options"),
    [
        ("WeightedSoftmaxLossLayer", (4,), "{}"),
        ("FocalLossLayer", (4, 5), '{"activation": "SIGMOID"}'),
        ("SigmoidCrossEntropyLossLayer", (4, 5), "{}"),
        ("DiceLossLayer", (4,), "{}"),
    ],
)
def test_labels_of_the_kits_losses_are_known(name, label, options):
    text = f"type: 'Python' python_param {{ module: 'pylayers' layer: '{name}' param_str: '{options}' }}"
    assert check_gradient(text, [(4, 5), label]).passed
