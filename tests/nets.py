"""Small real nets around one loss layer: the harness of the tests."""

import tempfile
from typing import NamedTuple

import caffe


def load(text, phase=caffe.TEST, seed=1):
    """A net from its prototxt text, its parameters drawn from one seed."""
    caffe.set_random_seed(seed)
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        return caffe.Net(file.name, phase)


def input_layer(name, shape):
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def identity_layer(bottom, top):
    """A Scale layer whose one factor is 1: Caffe back-propagates only towards layers with parameters."""
    return (
        f'layer {{ name: "scale_{top}" type: "Scale" bottom: "{bottom}" top: "{top}" '
        "scale_param { axis: 0 num_axes: 0 filler { value: 1 } } }\n"
    )


class Result(NamedTuple):
    loss: float
    diffs: dict
    net: caffe.Net


def net_text(layers, bottoms, constants=(), header=""):
    """A net that feeds `layers` with blobs named as `bottoms`, each behind an identity layer unless constant."""
    text = header
    for name, array in bottoms.items():
        source = name if name in constants else f"{name}_data"
        text += input_layer(source, array.shape)
        if name not in constants:
            text += identity_layer(source, name)
    return text + layers


def fill(net, bottoms):
    for name, array in bottoms.items():
        net.blobs[name if name not in net.blobs or f"{name}_data" not in net.blobs else f"{name}_data"].data[...] = (
            array
        )


def run(layers, bottoms, constants=(), header="", top="loss"):
    """Runs `layers` forward and backward.

    Args:
        layers: prototxt text of the layers under test; their top is called `top`.
        bottoms: dict from blob name to array.
        constants: the bottoms that no gradient goes to.

    Returns:
        The loss and the gradient of each bottom that is not constant.
    """
    net = load(net_text(layers, bottoms, constants, header))
    fill(net, bottoms)
    net.forward()
    net.backward()
    return Result(
        float(net.blobs[top].data),
        {name: net.blobs[name].diff.copy() for name in bottoms if name not in constants},
        net,
    )


def python_layer(layer, bottoms, options="", loss_weight=1, top="loss", module="pylayers", extra=""):
    """Prototxt text of a Python layer."""
    tops = top if isinstance(top, (list, tuple)) else [top]
    return (
        'layer { name: "python_loss" type: "Python" '
        + " ".join(f'bottom: "{name}"' for name in bottoms)
        + " "
        + " ".join(f'top: "{name}"' for name in tops)
        + f" python_param {{ module: '{module}' layer: '{layer}' param_str: '{options}' }}"
        + (f" loss_weight: {loss_weight}" + " loss_weight: 0" * (len(tops) - 1) if loss_weight is not None else "")
        + f" {extra} }}\n"
    )
