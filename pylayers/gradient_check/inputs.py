"""What is known of a layer's bottoms before it is built: their values, and which of them have no gradient."""

import importlib

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers import caffe_facts
from pylayers.caffe_nets.users_code import described
from pylayers.errors import UserError


def layer_parameter(layer):
    """The LayerParameter that `layer` is, or whose prototxt text it is; ValueError where the text is no layer's."""
    if isinstance(layer, caffe_pb2.LayerParameter):
        return layer
    try:
        return text_format.Parse(layer, caffe_pb2.LayerParameter())
    except text_format.ParseError as error:
        raise ValueError(f"this is no layer's prototxt text ({error}): {layer!r}") from None


def layer_class(module, name):
    """The class of a Python layer.

    Raises:
        UserError: the module cannot be imported, or has no such class.
    """
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"cannot import {module}: {described(error)}") from None
    if not hasattr(found, name):
        raise UserError(f"the module {module} has no {name}")
    return getattr(found, name)


def check_indices(count, labels, constants):
    """Raises ValueError where there is no such bottom."""
    for index in [*labels, *constants]:
        if not 0 <= index < count:
            raise ValueError(f"there is no bottom {index}; the layer has {count}, counted from 0")


def known_constants(layer, count, labels):
    """The bottoms that Caffe's own layer, or a loss on the kit's base class, gives no gradient; and no `labels`."""
    constants = getattr(_class_of(layer), "CONSTANTS", ())
    known = [index for index, name in enumerate(_names(layer)[:count]) if name in constants]
    return [index for index in known + caffe_facts.constant_bottoms(layer, count) if index not in labels]


def _shape(bottom):
    return bottom.shape if isinstance(bottom, np.ndarray) else tuple(bottom)


def known_labels(layer, bottoms):
    """The labels of a loss on the kit's base class that says how many classes they have: a dict as ``labels``."""
    kind = _class_of(layer)
    if len(bottoms) < 2 or isinstance(bottoms[1], np.ndarray) or not hasattr(kind, "classes_of_labels"):
        return {}
    try:
        options = kind.read_options(layer.python_param.param_str)
        classes = kind.classes_of_labels(options, _shape(bottoms[0]))
    except (TypeError, ValueError, IndexError):  # the layer says what is wrong when Caffe sets it up
        return {}
    return {} if classes is None else {1: classes}


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


# Random numbers keep this share of their range from each end, so that no step leads out of it.
MARGIN = 0.05


def draw(layer, bottoms, labels, random):
    """An array for each bottom: itself, labels, what the layer's own bottoms may hold, or normal random numbers.

    Raises:
        UserError: a bottom that a loss calls its label is a shape, and not among `labels`.
    """
    arrays = {index: bottom for index, bottom in enumerate(bottoms) if isinstance(bottom, np.ndarray)}
    _ask_for_labels(layer, {*labels, *arrays}, len(bottoms))
    shapes = list(map(_shape, bottoms))
    domains = caffe_facts.domains(layer, shapes)
    domains.update({index: caffe_facts.Labels(classes) for index, classes in labels.items()})
    return [
        arrays[index] if index in arrays else draw_from(domains.get(index), shapes[index], random)
        for index in range(len(bottoms))
    ]


def draw_from(domain, shape, random):
    """Random numbers of a `Range`, `Probabilities` or `Labels` of `pylayers.caffe_facts`; normal ones for None."""
    if isinstance(domain, caffe_facts.Labels):
        labels = random.integers(0, domain.classes, shape)
        labels[: int(domain.starts_at_0)] = 0
        return labels
    if isinstance(domain, caffe_facts.Range):
        margin = MARGIN * (domain.high - domain.low)
        return random.uniform(domain.low + margin, domain.high - margin, shape)
    if isinstance(domain, caffe_facts.Probabilities):
        # None is so near to 0 that a step, a hundredth of their root mean square, comes near to it: their log is steep.
        exp = np.exp(random.uniform(-1, 1, shape))
        return exp / exp.sum(axis=domain.axis, keepdims=True)
    return random.normal(size=shape)


def ask_for_labels(index, name):
    """The error for a bottom with labels of which nobody says how many classes they have."""
    return UserError(
        f"bottom[{index}] ({name}) holds labels: give --labels {index}:CLASSES, such as {index}:10 "
        f"(in Python, labels={{{index}: 10}} or an array)"
    )


def _ask_for_labels(layer, given, count):
    constants = getattr(_class_of(layer), "CONSTANTS", ())
    for index, name in enumerate(_names(layer)[:count]):
        if "label" in name and name in constants and index not in given:
            raise ask_for_labels(index, name)
