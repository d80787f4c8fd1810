"""Labels in a net: which blobs hold them, how many classes they have, and random ones."""

from typing import NamedTuple, Optional

import pylayers
from pylayers import caffe_facts


class Label(NamedTuple):
    """What a label may be: a whole number from 0 to `classes` − 1, or `ignore`."""

    classes: int
    ignore: Optional[int]


def find_labels(layers, net):
    """Finds the blobs that go straight into the label bottom of a layer that takes labels.

    Such layers are Caffe's losses over labels, Accuracy, and the kit's own losses over labels; a target of 0 or 1 under
    a sigmoid is a label of 2 classes here.

    Args:
        layers: LayerParameters.
        net: the caffe.Net of these layers, from which the shapes are taken.

    Returns:
        A dict from blob to `Label`. Where several layers take one blob, `classes` is their smallest number of classes,
        and `ignore` is set only if all losses among them ignore the same label.
    """
    found = {}
    for layer in layers:
        if len(layer.bottom) < 2 or layer.bottom[0] not in net.blobs:
            continue
        label = _label_of(layer, tuple(net.blobs[layer.bottom[0]].shape))
        if label is not None:
            found.setdefault(layer.bottom[1], []).append((layer, label))
    return {blob: _agreed(uses) for blob, uses in found.items()}


def _label_of(layer, shape):
    """The `Label` of a layer's bottom 1, where `shape` is that of bottom 0; None where bottom 1 holds no labels."""
    kind = kits_class(layer)
    if kind is not None:
        options = kind.read_options(layer.python_param.param_str)
        classes = kind.classes_of_labels(options, shape)
        return None if classes is None else Label(classes, getattr(options, "ignore_label", None))
    classes = caffe_facts.classes_of_labels(layer, shape)
    return None if classes is None else Label(classes, caffe_facts.ignore_label(layer))


def _agreed(uses):
    losses = [label for layer, label in uses if layer.type != "Accuracy"]
    ignores = {label.ignore for label in losses or [label for _, label in uses]}
    return Label(min(label.classes for _, label in uses), ignores.pop() if len(ignores) == 1 else None)


def kits_class(layer):
    """The kit's own class that a LayerParameter names; None for another layer."""
    param = layer.python_param
    if layer.type != "Python" or param.module != "pylayers" or param.layer not in pylayers.__all__:
        return None
    return getattr(pylayers, param.layer)


def merge(first, second):
    """Merges two dicts of `find_labels`. A blob in both gets the fewer classes, and an `ignore` where both agree."""
    both = {**first, **second}
    for blob in first.keys() & second.keys():
        a, b = first[blob], second[blob]
        both[blob] = Label(min(a.classes, b.classes), a.ignore if a.ignore == b.ignore else None)
    return both


def draw(random, shape, label):
    """Draws random labels, about one in five of them `ignore` where the label has one.

    Args:
        random: a numpy.random.Generator.
        shape: the shape of the result.
        label: a `Label`.

    Returns:
        An array of int.
    """
    values = random.integers(0, label.classes, shape)
    if label.ignore is not None:
        values[random.random(shape) < 0.2] = label.ignore
    return values
