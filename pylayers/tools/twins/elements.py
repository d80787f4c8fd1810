"""The losses between predictions and targets, and their twins."""

import itertools
import math

from pylayers.tools.twins.case import Case, Pair, Twins, combine, layer, python, step

_SUMS = [{"normalization": normalization} for normalization in ("BATCH_SIZE", "FULL", "NONE")]
_TIMED = ((1, 1000), (64, 10), (128, 1000), (32, 64, 32, 32), (8, 21, 256, 256))
_SHAPES = ((1, 1000), (64, 10), (5,), (7, 3, 5), (4, 3, 32, 32), (100, 1000))
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


def _cases(name, shapes, options=({},)):
    return [
        Case(name, shape, {**normalization, **more})
        for normalization, more, shape in itertools.product(_SUMS, options, shapes)
    ]


def _euclidean(case, folder):
    bottoms = {"pred": case.shape, "target": case.shape}
    return Twins(bottoms, python("EuclideanLossLayer", bottoms, case.options), _euclidean_loss(case, bottoms))


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
        step("Reduction", [name], f"sum_{name}", "reduction_param { axis: 1 operation: SUM }")
        for name in ("pred", "target")
    )
    return _channel_sums(case._replace(options={"end_axis": -1, **case.options}), sums)


def _channel_sums(case, sums):
    bottoms = {"pred": case.shape, "target": case.target or case.shape}
    own = python("ChannelSumEuclideanLossLayer", bottoms, case.options)
    return Twins(bottoms, own, sums + _euclidean_loss(case, ("sum_pred", "sum_target")))


def _euclidean_loss(case, bottoms):
    """The built-in loss. EuclideanLoss divides by N; for another Z of the Python layer a Power layer comes after it."""
    if case.options.get("normalization") == "NONE":
        return layer("EuclideanLoss", bottoms, top="mean", loss_weight=0) + _power(case.shape[0])
    if case.options.get("normalization") == "FULL":
        sums = {"euclidean": math.prod(case.shape[1:]), "channel-sum": math.prod(case.shape[2:])}.get(case.pair, 1)
        return layer("EuclideanLoss", bottoms, top="mean", loss_weight=0) + _power(1 / sums)
    return layer("EuclideanLoss", bottoms)


def _power(scale):
    return layer("Power", ["mean"], f"power_param {{ scale: {scale!r} }}")


def _channel_cases(name, shapes):
    return [Case(name, pred, options, target) for options, (pred, target) in itertools.product(_SUMS, shapes)]


def _divided(case, bottom, operation):
    """The loss as a sum over all elements of a blob, divided by Z."""
    z = {"FULL": math.prod(case.shape), "NONE": 1}.get(case.options.get("normalization"), case.shape[0])
    return layer("Reduction", [bottom], f"reduction_param {{ operation: {operation} coeff: {1 / z!r} }}")


def _l1(case, folder):
    bottoms = {"pred": case.shape, "target": case.shape}
    text = combine(bottoms, "difference", 1, -1) + _divided(case, "difference", "ASUM")
    return Twins(bottoms, python("L1LossLayer", bottoms, case.options), text)


def _smooth_l1(case, folder):
    """With a = |x| and β = 1/σ²: over = max(0, a − β), and f = (σ (a − over))² / 2 + over."""
    sigma = case.options.get("sigma", 1)
    bottoms = {"pred": case.shape, "target": case.shape}
    text = (
        combine(bottoms, "difference", 1, -1)
        + step("AbsVal", ["difference"], "size")
        + step("Power", ["size"], "shifted", f"power_param {{ shift: {-1 / sigma**2!r} }}")
        + step("ReLU", ["shifted"], "over")
        + combine(("size", "over"), "near", 1, -1)
        + step("Power", ["near"], "square", f"power_param {{ scale: {sigma} power: 2 }}")
        + combine(("square", "over"), "terms", 0.5, 1)
        + _divided(case, "terms", "SUM")
    )
    return Twins(bottoms, python("SmoothL1LossLayer", bottoms, case.options), text)


def _smooth_l1_weights(case, folder):
    """Without a twin: layers that multiply would give the weights a gradient."""
    bottoms = dict.fromkeys(("pred", "target", "inside_weight", "outside_weight"), case.shape)
    return Twins(bottoms, python("SmoothL1LossLayer", bottoms, case.options), None)


def _triplet(case, folder):
    bottoms = dict.fromkeys(("anchor", "positive", "negative"), case.shape)
    margin = case.options.get("margin", 1)
    text = "".join(
        combine(("anchor", name), f"to_{name}", 1, -1)
        + step("Reduction", [f"to_{name}"], f"distance_{name}", "reduction_param { axis: 1 operation: SUMSQ }")
        for name in ("positive", "negative")
    )
    text += (
        combine(("distance_positive", "distance_negative"), "less", 1, -1)
        + step("Power", ["less"], "shifted", f"power_param {{ shift: {margin!r} }}")
        + step("ReLU", ["shifted"], "terms")
        + layer("Reduction", ["terms"], f"reduction_param {{ operation: SUM coeff: {0.5 / case.shape[0]!r} }}")
    )
    return Twins(bottoms, python("TripletLossLayer", bottoms, case.options), text)


PAIRS = {
    "euclidean": Pair(
        "Euclidean",
        "EuclideanLoss",
        _euclidean,
        _cases("euclidean", _SHAPES),
        [Case("euclidean", shape) for shape in _TIMED],
    ),
    "channel-sum": Pair(
        "channel sum",
        "1×1 Convolution",
        _channel_sum,
        _channel_cases("channel-sum", _CHANNEL_SHAPES),
        [Case("channel-sum", (16, 3, 128, 128), target=(16, 1, 128, 128))],
    ),
    "channel-sum-all": Pair(
        "sum, all axes",
        "Reduction",
        _all_axes,
        _channel_cases("channel-sum-all", _ALL_AXES_SHAPES),
        [Case("channel-sum-all", (16, 3, 128, 128), target=(16, 1))],
    ),
    "l1": Pair(
        "L1",
        "Eltwise, Reduction",
        _l1,
        _cases("l1", _SHAPES),
        [Case("l1", shape) for shape in _TIMED],
    ),
    "smooth-l1": Pair(
        "smooth L1",
        "AbsVal, ReLU, Power",
        _smooth_l1,
        _cases("smooth-l1", _SHAPES, ({}, {"sigma": 3})),
        [Case("smooth-l1", shape) for shape in _TIMED],
    ),
    "smooth-l1-weights": Pair(
        "smooth L1, w",
        None,
        _smooth_l1_weights,
        _cases("smooth-l1-weights", _SHAPES[:-1]),
        [],
    ),
    "triplet": Pair(
        "triplet",
        "Reduction, ReLU",
        _triplet,
        [
            Case("triplet", shape, {"margin": margin})
            for shape, margin in itertools.product(((1, 10), (64, 10), (7, 3, 5), (100, 1000)), (0, 1, 5.5))
        ],
        [Case("triplet", shape) for shape in ((64, 10), (256, 128), (128, 1000), (4096, 512))],
    ),
}
