"""Each loss of the kit as net text, and the same loss from Caffe's own layers: for compare --all and for bench."""

import json
import math
from typing import NamedTuple, Optional

import caffe
import numpy as np


class Case(NamedTuple):
    """One loss at one shape with one set of options.

    Attributes:
        pair: a key of PAIRS.
        shape: of pred, or of scores.
        options: the Python layer's param_str, as a dict.
        target: the shape of target; that of pred by default.
    """

    pair: str
    shape: tuple
    options: dict = {}
    target: Optional[tuple] = None


class Twins(NamedTuple):
    """Two sides of a case: the net's blobs from outside, a dict from name to shape, and the layers' text."""

    bottoms: dict
    python: str
    builtin: str


class Pair(NamedTuple):
    """A loss of the kit and the built-in layers that compute the same.

    Attributes:
        layer: the title of the Python side.
        builtin: the title of the other.
        build: a function of a `Case` and a folder that returns `Twins`; it may write files into the folder.
    """

    layer: str
    builtin: str
    build: callable


def net_text(case, folder, learnt=None):
    """The two nets of a case.

    Args:
        case: a `Case`.
        folder: a pathlib.Path for what a net reads from a file; it must be there when the net is loaded.
        learnt: the bottom that a gradient goes to without force_backward; None for none. It comes through a
            Scale layer whose one factor is 1, since Caffe back-propagates only towards layers with parameters;
            the net's input is then named with "_data" after it.

    Returns:
        Prototxt texts: the Python net's and the built-in net's.
    """
    twins = PAIRS[case.pair].build(case, folder)
    head = "".join(_input(name, shape, name == learnt) for name, shape in twins.bottoms.items())
    return head + twins.python, head + twins.builtin


def _euclidean(case, folder):
    bottoms = {"pred": case.shape, "target": case.shape}
    return Twins(bottoms, _python("EuclideanLossLayer", bottoms, case.options), _euclidean_loss(case, bottoms))


def _channel_sum(case, folder):
    sums = "".join(
        f'layer {{ name: "sum_{name}" type: "Convolution" bottom: "{name}" top: "sum_{name}" '
        "param { lr_mult: 0 decay_mult: 0 } convolution_param { num_output: 1 kernel_size: 1 bias_term: false "
        'weight_filler { type: "constant" value: 1 } } }\n'
        for name in ("pred", "target")
    )
    return _channel_sums(case, sums)


def _all_axes(case, folder):
    sums = "".join(
        f'layer {{ name: "sum_{name}" type: "Reduction" bottom: "{name}" top: "sum_{name}" '
        "reduction_param { axis: 1 operation: SUM } }\n"
        for name in ("pred", "target")
    )
    return _channel_sums(case._replace(options={"end_axis": -1, **case.options}), sums)


def _channel_sums(case, sums):
    bottoms = {"pred": case.shape, "target": case.target or case.shape}
    python = _python("ChannelSumEuclideanLossLayer", bottoms, case.options)
    return Twins(bottoms, python, sums + _euclidean_loss(case, ("sum_pred", "sum_target")))


def _euclidean_loss(case, bottoms):
    """EuclideanLoss divides by N; another Z of the Python layer's takes a Power layer after it."""
    if case.options.get("normalization") == "NONE":
        return _layer("EuclideanLoss", bottoms, top="mean", loss_weight=0) + _power(case.shape[0])
    if case.options.get("normalization") == "FULL":
        sums = {"euclidean": math.prod(case.shape[1:]), "channel-sum": math.prod(case.shape[2:])}.get(case.pair, 1)
        return _layer("EuclideanLoss", bottoms, top="mean", loss_weight=0) + _power(1 / sums)
    return _layer("EuclideanLoss", bottoms)


def _power(scale):
    return _layer("Power", ["mean"], f"power_param {{ scale: {scale!r} }}")


def _softmax(case, folder):
    bottoms = _scores_and_label(case)
    axis = case.options.get("axis", 1)
    params = f"{_loss_param(case)} softmax_param {{ axis: {axis} }}"
    return Twins(bottoms, _weighted_softmax(case, bottoms), _layer("SoftmaxWithLoss", bottoms, params))


def _infogain(case, folder):
    bottoms = _scores_and_label(case)
    matrix = np.diag(case.options["class_weights"])[np.newaxis, np.newaxis]
    path = folder / f"infogain_{len(matrix[0, 0])}.binaryproto"
    path.write_bytes(caffe.io.array_to_blobproto(matrix).SerializeToString())
    axis = case.options.get("axis", 1)
    params = f"{_loss_param(case)} infogain_loss_param {{ source: {json.dumps(str(path))} axis: {axis} }}"
    return Twins(bottoms, _weighted_softmax(case, bottoms), _layer("InfogainLoss", bottoms, params))


def _several(case, folder):
    """Two losses in one net, the second at loss_weight 0.3, on one blob of labels."""
    label = _scores_and_label(case)["label"]
    bottoms = {"scores": case.shape, "auxiliary_scores": case.shape, "label": label}
    python = builtin = ""
    for prefix, weight in (("", 1), ("auxiliary_", 0.3)):
        names = {"top": f"{prefix}loss", "loss_weight": weight}
        scores = [f"{prefix}scores", "label"]
        python += _python("WeightedSoftmaxLossLayer", scores, case.options, **names)
        builtin += _layer("SoftmaxWithLoss", scores, _loss_param(case), **names)
    return Twins(bottoms, python, builtin)


def _scores_and_label(case):
    axis = case.options.get("axis", 1) % len(case.shape)
    return {"scores": case.shape, "label": case.shape[:axis] + case.shape[axis + 1 :]}


def _weighted_softmax(case, bottoms):
    return _python("WeightedSoftmaxLossLayer", bottoms, case.options)


def _loss_param(case):
    fields = f"normalization: {case.options.get('normalization', 'VALID')}"
    if "ignore_label" in case.options:
        fields += f" ignore_label: {case.options['ignore_label']}"
    return f"loss_param {{ {fields} }}"


def _python(name, bottoms, options, **more):
    param_str = json.dumps(json.dumps(options))
    param = f'python_param {{ module: "pylayers" layer: "{name}" param_str: {param_str} }}'
    return _layer("Python", bottoms, param, **more)


def _layer(kind, bottoms, params="", top="loss", loss_weight=1):
    fields = " ".join(f'bottom: "{name}"' for name in bottoms)
    return f'layer {{ name: "{top}" type: "{kind}" {fields} top: "{top}" loss_weight: {loss_weight} {params} }}\n'


def _input(name, shape, learnt):
    source = f"{name}_data" if learnt else name
    dims = " ".join(f"dim: {size}" for size in shape)
    text = f'layer {{ name: "{source}" type: "Input" top: "{source}" input_param {{ shape {{ {dims} }} }} }}\n'
    if learnt:
        text += (
            f'layer {{ name: "{name}" type: "Scale" bottom: "{source}" top: "{name}" '
            "scale_param { axis: 0 num_axes: 0 filler { value: 1 } } }\n"
        )
    return text


PAIRS = {
    "euclidean": Pair("Euclidean", "EuclideanLoss", _euclidean),
    "channel-sum": Pair("channel sum", "1×1 Convolution", _channel_sum),
    "channel-sum-all": Pair("sum over all axes", "Reduction", _all_axes),
    "softmax": Pair("softmax", "SoftmaxWithLoss", _softmax),
    "softmax-weights": Pair("weighted softmax", "InfogainLoss", _infogain),
    "softmax-two": Pair("two softmaxes", "SoftmaxWithLoss", _several),
}
