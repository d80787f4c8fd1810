"""Which input blobs of a net are labels, and of how many classes: a rule that reads the layers."""

import math
from typing import NamedTuple, Optional

import pylayers
from pylayers import params
from pylayers.output import UserError

SOFTMAX = "WeightedSoftmaxLossLayer"


class Label(NamedTuple):
    """What a label may be: a whole number from 0 to `classes` − 1, or `ignore`."""

    classes: int
    ignore: Optional[int]


def find_labels(layers, net):
    """Finds the blobs that go straight into bottom 1 of a layer that takes labels there.

    Those are SoftmaxWithLoss, InfogainLoss, Accuracy, HingeLoss and the Python layer WeightedSoftmaxLossLayer.

    Args:
        layers: LayerParameters.
        net: the net of these layers, loaded: it knows the shapes.

    Returns:
        A dict from blob to `Label`; the smallest number of classes where several layers take one blob, and an
        `ignore` only where all losses among them agree on it.
    """
    found = {}
    for layer in layers:
        if len(layer.bottom) < 2 or layer.bottom[0] not in net.blobs:
            continue
        axis = _class_axis(layer)
        if axis is not None:
            shape = tuple(net.blobs[layer.bottom[0]].shape)
            # HingeLoss takes all that belongs to one item for its classes.
            classes = math.prod(shape[1:]) if layer.type == "HingeLoss" else shape[axis]
            found.setdefault(layer.bottom[1], []).append((layer, Label(classes, _ignore_label(layer))))
    return {blob: _agreed(uses) for blob, uses in found.items()}


def merge(first, second):
    """One dict from two of `find_labels`, with the same rule for a blob in both."""
    both = {**first, **second}
    for blob in first.keys() & second.keys():
        a, b = first[blob], second[blob]
        both[blob] = Label(min(a.classes, b.classes), a.ignore if a.ignore == b.ignore else None)
    return both


def parse_labels(texts):
    """Reads ``label:10`` into ``{"label": Label(10, None)}``.

    Raises:
        UserError: it is not a name, a colon and a number of classes.

    >>> parse_labels(["label:10"])
    {'label': Label(classes=10, ignore=None)}
    """
    labels = {}
    for text in texts:
        blob, _, classes = text.rpartition(":")
        if not blob or not classes.isdecimal() or int(classes) < 1:
            raise UserError(f"--labels takes a blob and its number of classes, such as label:10; found {text!r}")
        labels[blob] = Label(int(classes), None)
    return labels


def draw(random, shape, label):
    """Random labels; one in five is `ignore` where there is one."""
    values = random.integers(0, label.classes, shape)
    if label.ignore is not None:
        values[random.random(shape) < 0.2] = label.ignore
    return values


def softmax_options(layer):
    """The options of a WeightedSoftmaxLossLayer, None for another layer."""
    if layer.type == "Python" and layer.python_param.layer == SOFTMAX:
        return params.parse(layer.python_param.param_str, getattr(pylayers, SOFTMAX).OPTIONS)
    return None


def _class_axis(layer):
    options = softmax_options(layer)
    if options is not None:
        return options.axis
    return {
        "SoftmaxWithLoss": layer.softmax_param.axis,
        "InfogainLoss": layer.infogain_loss_param.axis,
        "Accuracy": layer.accuracy_param.axis,
        "HingeLoss": 1,
    }.get(layer.type)


def _ignore_label(layer):
    options = softmax_options(layer)
    if options is not None:
        return options.ignore_label
    param = layer.accuracy_param if layer.type == "Accuracy" else layer.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None


def _agreed(uses):
    ignores = {label.ignore for layer, label in uses if layer.type != "Accuracy"}
    return Label(min(label.classes for _, label in uses), ignores.pop() if len(ignores) == 1 else None)
