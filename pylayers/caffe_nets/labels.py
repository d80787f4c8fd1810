"""What the inputs of two nets are filled with: random numbers, labels where a net takes labels, or an HDF5 file."""

import math
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

import pylayers
from pylayers import params
from pylayers.tools import report as output
from pylayers.tools.report import UserError

SOFTMAX = "WeightedSoftmaxLossLayer"


class Label(NamedTuple):
    """What a label may be: a whole number from 0 to `classes` − 1, or `ignore`."""

    classes: int
    ignore: Optional[int]


def values(pair, loaded, settings):
    """The values of the nets' input blobs.

    Standard normal numbers, but for labels and for weights, which are positive; or what the HDF5 file holds.

    Args:
        pair: two NetParameters.
        loaded: the nets, whose inputs have the same names and shapes.
        settings: `compare.Settings`.

    Returns:
        A dict from blob to array.

    Raises:
        UserError: --labels or the HDF5 file do not fit the nets.
    """
    shapes = {name: tuple(loaded[0].blobs[name].shape) for name in loaded[0].inputs}
    given = parse_labels(settings.labels)
    for blob in given:
        if blob not in shapes:
            raise UserError(f'--labels names the blob "{blob}", which is no input; the inputs are {quoted(shapes)}')
    if settings.data is not None:
        return _from_hdf5(settings.data, shapes)
    found = _merge(*(find_labels(param.layer, net) for param, net in zip(pair, loaded)))
    found.update(given)
    random = np.random.default_rng(settings.seed)
    weights = {layer.bottom[2] for param in pair for layer in param.layer if _takes_weights(layer)}
    drawn = {}
    for name, shape in shapes.items():
        if name in found:
            drawn[name] = draw(random, shape, found[name])
        else:
            drawn[name] = random.standard_normal(shape)
            if name in weights:
                drawn[name] = np.abs(drawn[name])
    return drawn


def _from_hdf5(path, shapes):
    h5py = output.need("h5py", extra="demo")
    try:
        with h5py.File(path, "r") as file:
            values = {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}
    except OSError as error:
        reason = "it is no HDF5 file" if Path(path).is_file() else error.strerror or "there is no such file"
        raise UserError(f"cannot read {path}: {reason}") from None
    if values.keys() != shapes.keys():
        raise UserError(f"{path} holds the data sets {quoted(values)}; the nets' inputs are {quoted(shapes)}")
    for name, value in values.items():
        if np.shape(value) != shapes[name]:
            raise UserError(f'"{name}" in {path} has shape {np.shape(value)}; the nets\' input has {shapes[name]}')
        if not np.issubdtype(np.asarray(value).dtype, np.number):
            raise UserError(f'"{name}" in {path} holds {np.asarray(value).dtype}, and no numbers')
    return values


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


def _merge(first, second):
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


def _softmax_options(layer):
    """The options of a WeightedSoftmaxLossLayer, None for another layer."""
    if layer.type == "Python" and layer.python_param.layer == SOFTMAX:
        return params.parse(layer.python_param.param_str, getattr(pylayers, SOFTMAX).OPTIONS)
    return None


def _class_axis(layer):
    options = _softmax_options(layer)
    if options is not None:
        return options.axis
    return {
        "SoftmaxWithLoss": layer.softmax_param.axis,
        "InfogainLoss": layer.infogain_loss_param.axis,
        "Accuracy": layer.accuracy_param.axis,
        "HingeLoss": 1,
    }.get(layer.type)


def _ignore_label(layer):
    options = _softmax_options(layer)
    if options is not None:
        return options.ignore_label
    param = layer.accuracy_param if layer.type == "Accuracy" else layer.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None


def _agreed(uses):
    ignores = {label.ignore for layer, label in uses if layer.type != "Accuracy"}
    return Label(min(label.classes for _, label in uses), ignores.pop() if len(ignores) == 1 else None)


def _takes_weights(layer):
    return layer.type == "Python" and layer.python_param.module == "pylayers" and len(layer.bottom) > 2


def quoted(names):
    """Names for an error message."""
    return ", ".join(f'"{name}"' for name in sorted(names)) or "none"
