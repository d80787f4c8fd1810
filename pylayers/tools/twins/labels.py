"""The losses over labels, and their twins."""

import itertools
import json

from pylayers.tools.twins.case import Case, Pair, Twins, layer, python

# scores and the classes' axis.
_SHAPES = (
    ((1, 1000), 1),
    ((64, 10), 1),
    ((16, 1000), 1),
    ((6, 5, 4), -1),
    ((2, 21, 12, 12), 1),
    ((2, 30, 10, 8), 2),
    ((4, 100, 7, 7), 1),
)
# Scores that each have a label, at most 300 of them.
_SCORES = ((1, 300), (30, 10), (7, 3, 5), (2, 3, 7, 7))
_NORMALIZATIONS = ("VALID", "FULL", "BATCH_SIZE", "NONE")


def _softmax(case, folder):
    bottoms = _scores_and_label(case)
    params = f"{_loss_param(case)} softmax_param {{ axis: {case.options.get('axis', 1)} }}"
    return Twins(bottoms, _weighted_softmax(case, bottoms), layer("SoftmaxWithLoss", bottoms, params))


def _infogain(case, folder):
    bottoms = _scores_and_label(case)
    import caffe  # here and not above: the command's help needs this table, but not Caffe
    import numpy as np

    matrix = np.diag(case.options["class_weights"])[np.newaxis, np.newaxis]
    path = folder / f"infogain_{len(matrix[0, 0])}.binaryproto"
    path.write_bytes(caffe.io.array_to_blobproto(matrix).SerializeToString())
    axis = case.options.get("axis", 1)
    params = f"{_loss_param(case)} infogain_loss_param {{ source: {json.dumps(str(path))} axis: {axis} }}"
    return Twins(bottoms, _weighted_softmax(case, bottoms), layer("InfogainLoss", bottoms, params))


def _several(case, folder):
    """Two losses in one net, the second at loss_weight 0.3, on one blob of labels."""
    label = _scores_and_label(case)["label"]
    bottoms = {"scores": case.shape, "auxiliary_scores": case.shape, "label": label}
    own = builtin = ""
    for prefix, weight in (("", 1), ("auxiliary_", 0.3)):
        names = {"top": f"{prefix}loss", "loss_weight": weight}
        scores = [f"{prefix}scores", "label"]
        own += python("WeightedSoftmaxLossLayer", scores, case.options, **names)
        builtin += layer("SoftmaxWithLoss", scores, _loss_param(case), **names)
    return Twins(bottoms, own, builtin)


def _sigmoid(case, folder):
    bottoms = {"scores": case.shape, "target": case.shape}
    own = python("SigmoidCrossEntropyLossLayer", bottoms, case.options)
    return Twins(bottoms, own, layer("SigmoidCrossEntropyLoss", bottoms, _loss_param(case, "BATCH_SIZE")))


def _focal(case, folder):
    """With γ = 0, against Caffe's softmax or sigmoid loss; else without a twin."""
    is_sigmoid = case.options.get("activation") == "SIGMOID"
    bottoms = {"scores": case.shape, "label": case.shape} if is_sigmoid else _scores_and_label(case)
    own, builtin = python("FocalLossLayer", bottoms, case.options), None
    if case.options.get("gamma") == 0:
        kind = "SigmoidCrossEntropyLoss" if is_sigmoid else "SoftmaxWithLoss"
        builtin = layer(kind, bottoms, _loss_param(case, "BATCH_SIZE" if is_sigmoid else "VALID"))
    return Twins(bottoms, own, builtin)


def _dice(case, folder):
    bottoms = _scores_and_label(case)
    return Twins(bottoms, python("DiceLossLayer", bottoms, case.options), None)


def _scores_and_label(case):
    axis = case.options.get("axis", 1) % len(case.shape)
    return {"scores": case.shape, "label": case.shape[:axis] + case.shape[axis + 1 :]}


def _weighted_softmax(case, bottoms):
    return python("WeightedSoftmaxLossLayer", bottoms, case.options)


def _loss_param(case, normalization="VALID"):
    fields = f"normalization: {case.options.get('normalization', normalization)}"
    if "ignore_label" in case.options:
        fields += f" ignore_label: {case.options['ignore_label']}"
    return f"loss_param {{ {fields} }}"


def _softmaxes(name, more=lambda shape, axis: {}, wanted=lambda shape, options: True):
    """Softmax cases: `more` gives further options, and `wanted` says which cases the twin can compute."""
    found = []
    for normalization, (shape, axis), ignore in itertools.product(_NORMALIZATIONS, _SHAPES, (None, 255, 0)):
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


def _sigmoids(name, **more):
    """Sigmoid cases. Caffe's layer has a mean over what counts by VALID, which 0 labels would leave at 0/1."""
    return [
        Case(name, shape, {"normalization": normalization, **({"ignore_label": ignore} if ignore else {}), **more})
        for normalization, shape, ignore in itertools.product(_NORMALIZATIONS, _SCORES, (None, 255))
    ]


_FOCAL = [
    Case("focal-gamma", shape, {"axis": axis, **options})
    for (shape, axis), options in itertools.product(
        _SHAPES, ({}, {"gamma": 0.5, "ignore_label": 255}, {"gamma": 1, "normalization": "WEIGHT_SUM"})
    )
] + [
    Case("focal-gamma", shape, {"activation": "SIGMOID", **options})
    for shape, options in itertools.product(_SCORES, ({}, {"gamma": 0.5, "pos_weight": 3, "ignore_label": 255}))
]
_DICE = [
    Case("dice", shape, {"axis": axis, **options})
    for (shape, axis), options in itertools.product(
        _SHAPES,
        (
            {},
            {"activation": "SIGMOID", "exponent": 1, "smooth": 0},
            {"ignore_label": 255, "background": 0},
            {"activation": "SIGMOID", "per_item": True},
        ),
    )
] + [Case("dice", (4, 1, 9, 7), {"activation": "SIGMOID", "exponent": exponent}) for exponent in (1, 2)]
_MAPS = ((2, 21, 256, 256), (4, 150, 64, 64))

PAIRS = {
    "softmax": Pair(
        "softmax",
        "SoftmaxWithLoss",
        _softmax,
        _softmaxes("softmax"),
        [
            Case("softmax", shape)
            for shape in ((1, 1000), (64, 10), (256, 1000), (128, 10000), *_MAPS, (16, 1000, 7, 7))
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
    "sigmoid": Pair(
        "sigmoid",
        "SigmoidCrossEntropy",
        _sigmoid,
        _sigmoids("sigmoid"),
        [Case("sigmoid", shape) for shape in ((64, 10), (128, 1000), (32, 64, 32, 32), (8, 21, 256, 256))],
    ),
    "focal": Pair(
        "focal, γ = 0",
        "SoftmaxWithLoss",
        _focal,
        _softmaxes("focal", lambda shape, axis: {"gamma": 0}, _is_plain),
        [],
    ),
    "focal-sigmoid": Pair(
        "focal, γ = 0",
        "SigmoidCrossEntropy",
        _focal,
        _sigmoids("focal-sigmoid", gamma=0, activation="SIGMOID"),
        [],
    ),
    "focal-gamma": Pair(
        "focal",
        None,
        _focal,
        _FOCAL,
        [
            *(Case("focal-gamma", shape) for shape in ((64, 10), (256, 1000), *_MAPS)),
            *(Case("focal-gamma", shape, {"activation": "SIGMOID"}) for shape in ((128, 1000), (32, 64, 32, 32))),
        ],
    ),
    "dice": Pair(
        "Dice",
        None,
        _dice,
        _DICE,
        [
            *(Case("dice", shape) for shape in ((8, 2, 32, 32), *_MAPS)),
            Case("dice", (16, 1, 256, 256), {"activation": "SIGMOID"}),
        ],
    ),
}
