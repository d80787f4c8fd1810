"""Class labels, for every loss that takes them: how they are checked and weighted, and what Z is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pylayers.params import Choice, Integer, Numbers
from pylayers.runtime import loops
from pylayers.runtime.tiles import quietly

# The options of a loss over labels. Its N, for BATCH_SIZE, is the product of the axes before the classes' axis.
OPTIONS = {
    "axis": Integer(1),
    "ignore_label": Integer(None),
    "class_weights": Numbers(None),
    "normalization": Choice("VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"),
}
IGNORED = -1  # the class of a label that does not count
# How a CUDA kernel finds Z, as macros: in the field `normalizer` of its Params, or from the labels that it reads.
Z_KINDS = {"Z_CONSTANT": 0, "Z_VALID": 1, "Z_WEIGHT_SUM": 2}


class Labels(NamedTuple):
    """What a loss takes from its labels.

    Attributes:
        y: the class of each position, int32, `IGNORED` where it does not count.
        weight: w_y · w_i of each position, float64; None where all are 1. Where a position is ignored, its number means
            nothing.
        z: Z, what the loss is divided by.
        changed: whether a class differs from that of the previous call.
        wrong: the index, in the flattened label bottom, of the first label that is no class; −1 where there is none.
            With a wrong label only `changed` and `wrong` mean anything.
    """

    y: np.ndarray
    weight: np.ndarray | None
    z: float
    changed: bool
    wrong: int


def normalizer(normalization, items, positions, valid=None, weight_sum=None):
    """Z, what a loss over labels is divided by; Caffe's softmax_loss_layer.cpp has the first four.

    Args:
        normalization: "VALID", "FULL", "BATCH_SIZE", "NONE" or "WEIGHT_SUM".
        items: the product of the axes before the classes' axis.
        positions: the number of labels.
        valid: the number of labels that count, where it is known.
        weight_sum: the sum of their weights, where it is known.

    Returns:
        Z. It is at least 1, except for "WEIGHT_SUM", where it is the sum of the weights and nothing else. None where Z
        depends on `valid` or `weight_sum`, and that is None.

    >>> normalizer("VALID", items=4, positions=8, valid=0)
    1
    >>> normalizer("BATCH_SIZE", items=4, positions=8)
    4
    """
    if normalization == "VALID":
        return valid if valid is None else max(1, valid)
    if normalization == "WEIGHT_SUM":
        return weight_sum
    return max(1, {"FULL": positions, "BATCH_SIZE": items, "NONE": 1}[normalization])


def expected(classes, ignore_label):
    """What a label must be, for error messages."""
    text = f"a label must be a whole number from 0 to {classes - 1}"
    return text if ignore_label is None else f"{text}, or {ignore_label} (ignore_label)"


class LabelReader:
    """Reads the labels of one layer, call after call.

    Attributes:
        shape: (outer, classes, inner) of the scores: the axes before, at and after the classes' axis.
    """

    def __init__(self, shape, options):
        """Takes the scores' shape (outer, classes, inner), and `options`, a namespace with the keys of `OPTIONS`."""
        self.shape, self._options = shape, options
        outer, _, inner = shape
        self._y = np.zeros((outer, inner), np.int32)
        self._flat_y = self._y.reshape(-1)
        weights = options.class_weights
        self._class_weights = None if weights is None else np.array(weights, np.float64)
        compiled = loops.module("pylayers.losses.labels_loops")
        self._read = compiled.read_labels if compiled else read_labels

    def read(self, label, weight=None):
        """Checks labels, and finds their classes, their weights and Z.

        Args:
            label: float array with one label for each position.
            weight: w_i, an array with one weight for each label or for each item of the batch, or None.

        Returns:
            `Labels`, whose arrays have the shape (outer, inner). `y` is overwritten by the next call.
        """
        outer, classes, inner = self.shape
        options, y, class_weights, weights = self._options, self._flat_y, self._class_weights, None
        if weight is not None:
            weight = weight.reshape(-1)
        if weight is not None or class_weights is not None:
            weights = np.empty(y.size)
        valid, weight_sum, changed, wrong = self._read(
            label.reshape(-1), classes, options.ignore_label, class_weights, weight, y, weights
        )
        z = normalizer(options.normalization, outer, y.size, valid, weight_sum)
        return Labels(self._y, None if weights is None else weights.reshape(outer, inner), z, changed, wrong)

    def expected(self):
        """What a label must be, for error messages."""
        return expected(self.shape[1], self._options.ignore_label)


@quietly
def read_labels(label, classes, ignore, class_weights, weight, y, weights):
    """Checks labels, and writes the class and the weight of each, with NumPy.

    Args:
        label: float (n,).
        classes: the number of classes.
        ignore: the label of positions that do not count, or None.
        class_weights: float64 (classes,), or None.
        weight: float (m,) where m divides n, each for n/m labels; or None.
        y: int32 (n,), the classes of the previous call, overwritten with those of this one: `IGNORED` for a label that
            is ignored.
        weights: float64 (n,), overwritten with the weights; None where `class_weights` and `weight` are both None.

    Returns:
        The number of labels that count, the sum of their weights, whether `y` has changed, and where the first wrong
        label is, or −1. With a wrong label only the last two mean anything.
    """
    counts = np.ones(label.shape, bool) if ignore is None else label != ignore
    known = np.where(counts, label, 0)
    good = (known >= 0) & (known < classes) & (known == np.floor(known))  # false where a label is NaN
    if not good.all():
        return 0, 0.0, True, int(np.argmin(good))
    found = known.astype(np.int32)
    valid = int(np.count_nonzero(counts))
    weight_sum = float(valid)
    if weights is not None:
        weights[:] = 1.0 if class_weights is None else class_weights[found]
        if weight is not None:
            weights *= np.repeat(weight, label.size // weight.size)
        weight_sum = float(np.sum(weights, where=counts))
    found[~counts] = IGNORED
    changed = not np.array_equal(found, y)
    y[:] = found
    return valid, weight_sum, changed, -1


def classes_axis(layer, index=0):
    """Splits the shape of a layer's scores at its option ``axis``.

    Args:
        layer: a `LossLayer` with `OPTIONS`, whose shapes are known.
        index: the index of the bottom with the scores.

    Returns:
        (outer, classes, inner), and the axis counted from 0.

    Raises:
        ValueError: there is no such axis.
    """
    shape, axis = layer.shapes[index], layer.options.axis
    if not -len(shape) <= axis < len(shape):
        layer.fail(
            f'param_str key "axis" must be from {-len(shape)} to {len(shape) - 1} for '
            f"{layer.name_bottom(index)} of shape {shape}, found {axis}"
        )
    axis %= len(shape)
    return (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])), axis


def check_labels(layer):
    """Checks the axis of bottom 0, the numbers of labels in bottom 1 and of weights in bottom 2, and class_weights.

    Args:
        layer: a `LossLayer` with `OPTIONS`, whose shapes are known.

    Returns:
        (outer, classes, inner).

    Raises:
        ValueError: one of them does not fit.
    """
    (outer, classes, inner), axis = classes_axis(layer)
    shape = layer.shapes[0]
    if math.prod(layer.shapes[1]) != outer * inner:
        layer.fail_bottom(
            1,
            f"{outer * inner} labels, one for each position of {layer.name_bottom(0)} of shape "
            f"{shape} without axis {axis}, each a whole number from 0 to {classes - 1}",
        )
    layer.check_weight(2, like=1)
    weights = layer.options.class_weights
    if weights is not None and len(weights) != classes:
        layer.fail(
            f'param_str key "class_weights" must have {classes} numbers, one for each class of '
            f"{layer.name_bottom(0)} of shape {shape} along axis {axis}, found {len(weights)}"
        )
    return outer, classes, inner
