"""What is known of a layer's bottoms before it is built: their values, and which of them have no gradient."""

import importlib

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_facts import LABEL_LOSSES
from pylayers.errors import UserError


def layer_parameter(layer):
    """A LayerParameter from itself or from its prototxt text; ValueError where the text is no layer's."""
    if isinstance(layer, caffe_pb2.LayerParameter):
        return layer
    try:
        return text_format.Parse(layer, caffe_pb2.LayerParameter())
    except text_format.ParseError as error:
        raise ValueError(f"this is no layer's prototxt text ({error}): {layer!r}") from None


def layer_class(module, name):
    """The class of a Python layer.

    Raises:
        UserError: the module cannot be imported, or lacks it.
    """
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"cannot import {module}: {error}") from None
    if not hasattr(found, name):
        raise UserError(f"the module {module} has no {name}")
    return getattr(found, name)


def check_indices(count, labels, constants):
    """Raises ValueError where there is no such bottom."""
    for index in [*labels, *constants]:
        if not 0 <= index < count:
            raise ValueError(f"there is no bottom {index}; the layer has {count}, counted from 0")


def known_constants(layer, count, labels):
    """The label of a loss of Caffe's own, and the bottoms that a loss on the kit's base class says are constant."""
    if layer.type in LABEL_LOSSES:
        return [] if 1 in labels else [1]
    constants = getattr(_class_of(layer), "CONSTANTS", ())
    names = _names(layer)[:count]
    return [index for index, name in enumerate(names) if name in constants and index not in labels]


def bottom_names(layer):
    """What the bottoms are called: in the layer's net, or else by its class on the kit's base classes, or not."""
    return list(layer.bottom) or _names(layer)


def _names(layer):
    kind = _class_of(layer)
    return [*getattr(kind, "BOTTOMS", ()), *getattr(kind, "OPTIONAL_BOTTOMS", ())]


def _class_of(layer):
    """The class of a Python layer; None for a layer of Caffe's own, and where there is none."""
    if layer.type != "Python":
        return None
    try:
        return layer_class(layer.python_param.module, layer.python_param.layer)
    except UserError:  # Caffe says why when it makes the layer
        return None


def draw(bottoms, labels, random):
    """An array for each bottom: itself, labels, or normal random numbers."""
    values = []
    for index, bottom in enumerate(bottoms):
        if isinstance(bottom, np.ndarray):
            values.append(bottom)
        elif index in labels:
            values.append(random.integers(0, labels[index], bottom))
        else:
            values.append(random.normal(size=bottom))
    return values
