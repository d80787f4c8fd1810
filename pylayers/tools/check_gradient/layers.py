"""The layer that `pylayers check-gradient` is asked to check."""

import numpy as np

from pylayers.caffe_nets import build, read
from pylayers.caffe_nets.hdf5 import read_arrays
from pylayers.caffe_nets.labels import Label, draw, find_labels
from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError
from pylayers.gradient_check.inputs import ask_for_labels, layer_class, layer_parameter


def by_name(options):
    """A layer by its class or type.

    Args:
        options: the command's parsed arguments.

    Returns:
        A LayerParameter.

    Raises:
        UserError: there is no such layer.
    """
    module, _, name = options.subject.rpartition(":")
    if name == "Python":
        raise UserError("name a Python layer as module:Class")
    if module:
        layer_class(module, name)
    try:
        layer = layer_parameter(f"type: '{'Python' if module else name}' {options.params}")
    except ValueError as error:
        raise UserError(str(error)) from None
    if module:
        layer.python_param.module, layer.python_param.layer = module, name
        layer.python_param.param_str = options.param_str
    if options.tops:
        layer.top[:] = [f"top{index}" for index in range(options.tops)]
    return layer


def in_net(options):
    """A layer of a net, and the values of its bottoms.

    Args:
        options: the command's parsed arguments.

    Returns:
        A LayerParameter, and a list of arrays.

    Raises:
        UserError: there is no such net or layer, or the layer has no bottom.
    """
    if options.subject or options.bottom or options.param_str or options.params or options.tops:
        raise UserError(
            "--net and --layer take the layer from the net: give no LAYER, --bottom, --tops, --param-str or --params"
        )
    param = read.read_net(options.net, read.PHASES[options.phase])
    index = _index(param.layer, options.layer, options.net)
    layer = param.layer[index]
    if not layer.bottom:
        raise UserError(f'the layer "{layer.name}" of {options.net} has no bottom, and no gradient')
    return layer, _bottoms(param, index, options)


def _index(layers, name, path):
    """The index of the layer with that name; or, of several with one name, of name:1, name:2 and so on."""
    found = [index for index, layer in enumerate(layers) if layer.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        kinds = ", ".join(f"--layer {name}:{place} ({_kind(layers[index])})" for place, index in enumerate(found, 1))
        raise UserError(f'{path} has {len(found)} layers "{name}" in this phase: say which, {kinds}')
    front, _, place = name.rpartition(":")
    found = [index for index, layer in enumerate(layers) if layer.name == front]
    if place.isdecimal() and 1 <= int(place) <= len(found):
        return found[int(place) - 1]
    names = ", ".join(f'"{layer.name}"' for layer in layers)
    raise UserError(f'{path} has no layer "{name}" in this phase; it has {names}')


def _kind(layer):
    return layer.python_param.layer if layer.type == "Python" else layer.type


def _bottoms(param, index, options):
    """The values of a layer's bottoms, as they are when it is its turn: a later layer may work in place.

    The net's inputs, which hold zeros, are filled with random numbers, with labels where those are known or asked for,
    or from the file. Only what comes before the layer is built: the layer's own setup is to run once.
    """
    layer, layers = param.layer[index], list(param.layer)
    del param.layer[index:]
    made = {top for before in layers[:index] for top in before.top} | set(param.input)
    for bottom in layer.bottom:
        if bottom not in made:
            raise UserError(f'no layer before "{layer.name}" in {options.net} has the top "{bottom}", its bottom')
    net = build.load(param, read.PHASES[options.phase])
    labels = find_labels(layers, net)
    labels.update(
        {layer.bottom[place]: Label(classes, None) for place, classes in options.labels if place < len(layer.bottom)}
    )
    given = _data_of_inputs(options.data, net) if options.data else {}
    random = np.random.default_rng(options.seed)
    for name in net.inputs:
        data = net.blobs[name].data
        if name in given:
            data[...] = given[name]
        else:
            _ask_for_label(layer, name, labels, options)
            data[...] = draw(random, data.shape, labels[name]) if name in labels else random.normal(size=data.shape)
    net.forward()
    return [net.blobs[bottom].data.copy() for bottom in layer.bottom]


def _data_of_inputs(path, net):
    given = read_arrays(path)
    unknown = given.keys() - set(net.inputs)
    if unknown:
        raise UserError(f"{path} holds the data sets {quoted(unknown)}; the net's inputs are {quoted(net.inputs)}")
    for name, value in given.items():
        shape = net.blobs[name].data.shape
        if value.shape != shape:
            raise UserError(f'"{name}" in {path} has shape {value.shape}; the net\'s input has {shape}')
    return given


def _ask_for_label(layer, name, labels, options):
    """Refuses normal numbers for an input that the layer takes as its bottom and whose name says label."""
    if name not in layer.bottom or "label" not in name or name in labels:
        return
    place = list(layer.bottom).index(name)
    if place not in {index for index, *_ in (*options.range, *options.softmax)}:
        raise ask_for_labels(place, name)
