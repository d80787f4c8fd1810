"""The layer that `pylayers check-gradient` is asked to check, and its bottoms."""

import caffe
import numpy as np

from pylayers.caffe_facts import LABEL_LOSSES
from pylayers.caffe_nets import read
from pylayers.caffe_nets.labels import Label, draw, find_labels
from pylayers.errors import UserError
from pylayers.gradient_check.inputs import layer_class, layer_parameter


def by_name(options):
    """A layer by its class or type, and the shapes of its bottoms.

    Returns:
        A LayerParameter, and a list of shapes.

    Raises:
        UserError: there is no such layer, or its bottoms are not given.
    """
    if not options.bottom:
        raise UserError("give the shape of each bottom, such as --bottom 4,10 --bottom 4")
    if options.subject in LABEL_LOSSES and 1 not in dict(options.labels):
        raise UserError(f"bottom[1] of {options.subject} holds labels: give --labels 1:CLASSES, such as 1:10")
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
    return layer, options.bottom


def in_net(options):
    """A layer of a net, and the values of its bottoms.

    Returns:
        A LayerParameter, and a list of arrays.

    Raises:
        UserError: there is no such net or layer, or the layer has no bottom.
    """
    if options.subject or options.bottom or options.param_str or options.params:
        raise UserError(
            "--net and --layer take the layer from the net: give no LAYER, --bottom, --param-str or --params"
        )
    path, name, phase = options.net, options.layer, read.PHASES[options.phase]
    layers = read.read_layers(path, phase)
    layer = next((layer for layer in layers if layer.name == name), None)
    if layer is None:
        names = ", ".join(f'"{layer.name}"' for layer in layers)
        raise UserError(f'{path} has no layer "{name}" in this phase; it has {names}')
    if not layer.bottom:
        raise UserError(f'the layer "{name}" of {path} has no bottom, and no gradient')
    labels = {
        layer.bottom[index]: Label(classes, None) for index, classes in options.labels if index < len(layer.bottom)
    }
    return layer, _bottoms(path, layer, layers, labels, options.seed, phase)


def _bottoms(path, layer, layers, labels, seed, phase):
    """The values of a layer's bottoms, as they are when it is its turn: a later layer may work in place.

    The net's inputs, which hold zeros, are filled with random numbers, or labels where those are known or asked for.
    """
    net = caffe.Net(path, phase)
    labels = {**find_labels(layers, net), **labels}
    random = np.random.default_rng(seed)
    for name in net.inputs:
        data = net.blobs[name].data
        data[...] = draw(random, data.shape, labels[name]) if name in labels else random.normal(size=data.shape)
    index = list(net._layer_names).index(layer.name)
    if index:
        net._forward(0, index - 1)
    return [net.blobs[net._blob_names[blob]].data.copy() for blob in net._bottom_ids(index)]
