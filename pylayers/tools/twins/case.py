"""What a row of PAIRS holds, and text of layers for its nets."""

import json
from typing import Callable, NamedTuple, Optional


class Case(NamedTuple):
    """One loss at one shape with one set of options.

    Attributes:
        pair: a key of PAIRS.
        shape: of the first bottom, such as pred or scores.
        options: the Python layer's param_str, as a dict.
        target: the shape of target; that of pred by default.
    """

    pair: str
    shape: tuple
    options: dict = {}
    target: Optional[tuple] = None


class Twins(NamedTuple):
    """Two sides of a case: the net's blobs from outside, a dict from name to shape, and the layers' text.

    `builtin` is None where Caffe's layers cannot compute the loss.
    """

    bottoms: dict
    python: str
    builtin: Optional[str]


class Pair(NamedTuple):
    """A loss of the kit and the built-in layers that compute the same.

    Attributes:
        layer: the title of the Python side.
        builtin: the title of the other; None where there is none, and the loss is held against float64 alone.
        build: a function of a `Case` and a folder that returns `Twins`; it may write files into the folder.
        compared: the `Case` that ``pylayers compare --all`` runs, a list.
        timed: those that ``pylayers bench`` times.
    """

    layer: str
    builtin: Optional[str]
    build: Callable
    compared: list
    timed: list


def python(name, bottoms, options, **more):
    """Text of a Python layer of the kit; `more` is as for `layer`."""
    param_str = json.dumps(json.dumps(options))
    param = f'python_param {{ module: "pylayers" layer: "{name}" param_str: {param_str} }}'
    return layer("Python", bottoms, param, **more)


def layer(kind, bottoms, params="", top="loss", loss_weight=1):
    """Text of a layer with one top, which it is named after."""
    fields = " ".join(f'bottom: "{name}"' for name in bottoms)
    return f'layer {{ name: "{top}" type: "{kind}" {fields} top: "{top}" loss_weight: {loss_weight} {params} }}\n'


def step(kind, bottoms, top, params=""):
    """Text of a layer on the way to the loss."""
    fields = " ".join(f'bottom: "{name}"' for name in bottoms)
    return f'layer {{ name: "{top}" type: "{kind}" {fields} top: "{top}" {params} }}\n'


def combine(bottoms, top, *coefficients):
    """Text of an Eltwise layer: the sum with these coefficients, or without any the product."""
    params = " ".join(f"coeff: {number!r}" for number in coefficients) or "operation: PROD"
    return step("Eltwise", bottoms, top, f"eltwise_param {{ {params} }}")
