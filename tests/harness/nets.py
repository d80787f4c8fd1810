"""Small real nets around one loss layer."""

from typing import NamedTuple

import caffe

from pylayers.caffe_nets.build import load
from pylayers.caffe_nets.text import input_text

EUCLIDEAN = "EuclideanLossLayer"
CHANNEL_SUM = "ChannelSumEuclideanLossLayer"
SOFTMAX = "WeightedSoftmaxLossLayer"
SMOOTH_L1 = "SmoothL1LossLayer"
L1 = "L1LossLayer"
SIGMOID = "SigmoidCrossEntropyLossLayer"
FOCAL = "FocalLossLayer"
DICE = "DiceLossLayer"
TRIPLET = "TripletLossLayer"

# Bottoms that get no gradient; all others are put behind a layer with a parameter.
CONSTANTS = ("label", "weight", "inside_weight", "outside_weight", "infogain")


class Result(NamedTuple):
    """A net after forward and backward: its loss, the gradient of each bottom that has one, and itself."""

    loss: float
    diffs: dict
    net: caffe.Net


def layer(kind, bottoms, tops="loss", params="", loss_weight=1):
    """Prototxt text of a layer named "loss"; `loss_weight` None writes none."""
    tops = [tops] if isinstance(tops, str) else tops
    weights = [] if loss_weight is None else [loss_weight] + [0] * (len(tops) - 1)
    fields = [f'bottom: "{name}"' for name in bottoms] + [f'top: "{name}"' for name in tops]
    fields += [f"loss_weight: {weight}" for weight in weights]
    return f'layer {{ name: "loss" type: "{kind}" {" ".join(fields)} {params} }}\n'


def python_layer(name, bottoms, options="", module="pylayers", params="", **more):
    """Prototxt text of a Python layer named "loss"; `options` is its param_str."""
    python_param = f"python_param {{ module: '{module}' layer: '{name}' param_str: '{options}' }}"
    return layer("Python", bottoms, params=f"{python_param} {params}", **more)


def net_text(layers, bottoms, header=""):
    """A net whose `layers` take `bottoms` from outside; all of these but the CONSTANTS get a gradient."""
    inputs = (input_text(name, array.shape, name not in CONSTANTS) for name, array in bottoms.items())
    return header + "".join(inputs) + layers


def fill(net, bottoms):
    """Gives the Input layers of a net from `net_text` the shapes and values of `bottoms`."""
    for name, array in bottoms.items():
        net.blobs[_source(name)].reshape(*array.shape)
        net.blobs[_source(name)].data[...] = array


def run(layers, bottoms, header=""):
    """Loads a net from `net_text`, runs it forward and backward."""
    net = load(net_text(layers, bottoms, header))
    fill(net, bottoms)
    return run_again(net, bottoms)


def run_again(net, bottoms):
    """Runs a net from `net_text` forward and backward."""
    net.forward()
    net.backward()
    diffs = {name: net.blobs[name].diff.copy() for name in bottoms if name not in CONSTANTS}
    return Result(float(net.blobs["loss"].data), diffs, net)


def loss_index(net):
    """The index of the layer named "loss", for net._forward and net._backward."""
    return list(net._layer_names).index("loss")


def _source(name):
    return name if name in CONSTANTS else f"{name}_data"


def run_in_phase_train(text):
    """Runs a net forward and backward in phase TRAIN; for a child process, which Caffe may end."""
    net = load(text, caffe.TRAIN)
    net.forward()
    net.backward()
