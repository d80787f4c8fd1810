"""Each loss of the kit as net text, and the same loss from Caffe's own layers: for compare --all and for bench."""

import itertools
import json
import math
from typing import Callable, NamedTuple, Optional

from pylayers.caffe_nets.text import input_text


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
        compared: the `Case` that ``pylayers compare --all`` runs, a list.
        timed: those that ``pylayers bench`` times.
    """

    layer: str
    builtin: str
    build: Callable
    compared: list
    timed: list


def net_text(case, folder, learnt=False):
    """The two nets of a case.

    Args:
        case: a `Case`.
        folder: a pathlib.Path for files that a net reads; it must still be there when the net is loaded.
        learnt: whether the first bottom gets a gradient without force_backward, as `input_text` arranges it.

    Returns:
        Prototxt texts: the Python net's and the built-in net's.
    """
    twins = PAIRS[case.pair].build(case, folder)
    first = next(iter(twins.bottoms))
    head = "".join(input_text(name, shape, learnt and name == first) for name, shape in twins.bottoms.items())
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
    """The built-in loss. EuclideanLoss divides by N; for another Z of the Python layer a Power layer comes after it."""
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
    import caffe  # here and not above: the command's help needs this table, but not Caffe
    import numpy as np

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


# What compare --all runs. Every case has at most 100,000 elements, standard normal as all inputs are. Caffe sums its
# losses in float32, whose error grows with the number of terms. On larger blobs its own loss is off by more than 1e-6,
# and a difference would say nothing about the Python layer. Softmax losses, which Caffe adds one label
# after the other, have at most 300 labels for the same reason.

_SUMS = [{"normalization": normalization} for normalization in ("BATCH_SIZE", "FULL", "NONE")]
_EUCLIDEAN = [
    Case("euclidean", shape, options)
    for options, shape in itertools.product(_SUMS, ((1, 1000), (64, 10), (5,), (7, 3, 5), (4, 3, 32, 32), (100, 1000)))
]
# pred and target, whose numbers of channels may differ.
_CHANNEL_SHAPES = (
    ((1, 3, 8, 8), (1, 1, 8, 8)),
    ((4, 3, 32, 32), (4, 1, 32, 32)),
    ((8, 5, 9, 7), (8, 5, 9, 7)),
    ((2, 21, 40, 40), (2, 2, 40, 40)),
)
_ALL_AXES_SHAPES = (
    ((64, 10), (64, 1)),
    ((4, 3, 8, 8), (4, 1)),
    ((8, 5, 9, 7), (8, 5, 9, 7)),
    ((32, 3, 32, 32), (32, 1, 32, 32)),
)
# scores and the classes' axis.
_SOFTMAX_SHAPES = (
    ((1, 1000), 1),
    ((64, 10), 1),
    ((16, 1000), 1),
    ((6, 5, 4), -1),
    ((2, 21, 12, 12), 1),
    ((2, 30, 10, 8), 2),
    ((4, 100, 7, 7), 1),
)


def _sums(name, shapes):
    return [Case(name, pred, options, target) for options, (pred, target) in itertools.product(_SUMS, shapes)]


def _softmaxes(name, more=lambda shape, axis: {}, wanted=lambda shape, options: True):
    """Softmax cases: `more` gives further options, and `wanted` says which cases the twin can compute."""
    found = []
    normalizations = ("VALID", "FULL", "BATCH_SIZE", "NONE")
    for normalization, (shape, axis), ignore in itertools.product(normalizations, _SOFTMAX_SHAPES, (None, 255, 0)):
        options = {"normalization": normalization, "axis": axis}
        if ignore is not None:
            options["ignore_label"] = ignore
        if wanted(shape, options):
            found.append(Case(name, shape, {**options, **more(shape, axis)}))
    return found


def _weights(shape, axis):
    return {"class_weights": [round(0.1 + index % 7 * 0.5, 1) for index in range(shape[axis])]}


def _is_small(shape, options):
    """Whether a case has few classes: InfogainLoss reads a matrix of classes × classes for each position."""
    return shape[options["axis"]] <= 100


def _is_plain(shape, options):
    return options["axis"] == 1 and options.get("ignore_label") != 0


# A new loss of the kit has a row here.
PAIRS = {
    "euclidean": Pair(
        "Euclidean",
        "EuclideanLoss",
        _euclidean,
        _EUCLIDEAN,
        [Case("euclidean", shape) for shape in ((1, 1000), (64, 10), (128, 1000), (32, 64, 32, 32), (8, 21, 256, 256))],
    ),
    "channel-sum": Pair(
        "channel sum",
        "1×1 Convolution",
        _channel_sum,
        _sums("channel-sum", _CHANNEL_SHAPES),
        [Case("channel-sum", (16, 3, 128, 128), target=(16, 1, 128, 128))],
    ),
    "channel-sum-all": Pair(
        "sum over all axes",
        "Reduction",
        _all_axes,
        _sums("channel-sum-all", _ALL_AXES_SHAPES),
        [Case("channel-sum-all", (16, 3, 128, 128), target=(16, 1))],
    ),
    "softmax": Pair(
        "softmax",
        "SoftmaxWithLoss",
        _softmax,
        _softmaxes("softmax"),
        [
            Case("softmax", shape)
            for shape in (
                *((1, 1000), (64, 10), (256, 1000), (128, 10000)),
                *((2, 21, 256, 256), (4, 150, 64, 64), (16, 1000, 7, 7)),
            )
        ],
    ),
    "softmax-weights": Pair(
        "weighted softmax",
        "InfogainLoss",
        _infogain,
        _softmaxes("softmax-weights", _weights, _is_small),
        [Case("softmax-weights", (128, 100), {"class_weights": [0.5, 2.0] * 50})],
    ),
    "softmax-two": Pair(
        "two softmaxes",
        "SoftmaxWithLoss",
        _several,
        _softmaxes("softmax-two", wanted=_is_plain),
        [],
    ),
}
