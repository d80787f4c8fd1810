"""Labels, for every loss that takes them: how they are checked and weighted.

A label is a whole number, the class of a position. The target of a sigmoid loss is a number from 0 to 1. A wrong one
ends in an error: on the CPU at once; on the GPU, where a look at it would wait, in the layer's next call.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pylayers.params import Choice, Integer, Numbers
from pylayers.runtime import gpu, loops
from pylayers.runtime.tiles import TILE, map_tiles, quietly, tiles

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
    """What a loss takes from its labels. On the GPU all are arrays there.

    Attributes:
        y: the class of each position, int32, `IGNORED` where it does not count.
        weight: w_y · w_i of each position, float64; None where all are 1. Where a position is ignored, its number means
            nothing.
        valid: the number of labels that count.
        weight_sum: the sum of their weights.
    """

    y: Any
    weight: Any
    valid: Any
    weight_sum: Any


class LabelReader:
    """Reads the labels of one layer, call after call.

    On the CPU it drops what the layer has kept from forward where a class has changed since.
    """

    def __init__(self, layer, classes, shape, ignore_label=None):
        """Makes a reader.

        Args:
            layer: the `LossLayer`, whose shapes are known. Its option ``class_weights``, if it has one, gives w_y.
            classes: the number of classes.
            shape: what shape the positions get, such as (outer, inner).
            ignore_label: the label of positions that do not count, or None.
        """
        self._layer, self._classes, self._ignore = layer, classes, ignore_label
        self._wrong = WrongValues.of(layer, expected(classes, ignore_label))
        self._y = np.zeros(shape, np.int32)
        weights = getattr(layer.options, "class_weights", None)
        self._class_weights = None if weights is None else np.array(weights, np.float64)
        compiled = loops.module("pylayers.losses.labels_loops")
        self._read = compiled.read_labels if compiled else read_labels

    def read(self, xp, label, weight=None):
        """Checks labels, and finds their classes and their weights.

        Args:
            xp: NumPy or CuPy.
            label: float array with one label for each position.
            weight: w_i, an array with one weight for each label or for each item of the batch, or None.

        Returns:
            `Labels`. On the CPU `y` is overwritten by the next call.

        Raises:
            ValueError: a label is wrong.
        """
        label, weight = label.reshape(-1), None if weight is None else weight.reshape(-1)
        if xp is not np:
            return self._read_on_gpu(xp, label, weight)
        weights = None
        if weight is not None or self._class_weights is not None:
            weights = np.empty(self._y.shape)
        layer = self._layer
        kept, layer.kept = layer.kept, None  # void until it is known; an interrupt may leave only some classes changed
        arrays = self._class_weights, weight, self._y.reshape(-1), weights if weights is None else weights.reshape(-1)
        found = map_tiles(
            lambda tile: self._read(label, self._classes, self._ignore, *arrays, *tile[2:]), tiles(1, label.size, TILE)
        )
        valid, weight_sum, changed, wrong = zip(*found)
        self._wrong.fail_first(label, wrong)
        if True not in changed:
            layer.kept = kept
        return Labels(self._y, weights, sum(valid), sum(weight_sum))

    def fail(self, value, index):
        """Raises ValueError for a wrong label, whose index is that in the flattened bottom."""
        self._wrong.fail(value, index)

    def _read_on_gpu(self, xp, label, weight):
        self._wrong.raise_reported()
        y, wrong = find_classes(xp, label, self._classes, self._ignore)
        self._wrong.report(xp, label, wrong)
        counts, weights = y >= 0, None
        valid = weight_sum = xp.count_nonzero(counts)
        if self._class_weights is not None:
            weights = self._layer.constant(xp, "class_weights")[xp.maximum(y, 0)]
        if weight is not None:
            each = xp.repeat(weight, label.size // weight.size)
            weights = each if weights is None else weights * each
        if weights is not None:
            weight_sum = xp.sum(xp.where(counts, weights, 0), dtype=xp.float64)
            weights = weights.reshape(self._y.shape)
        return Labels(y.reshape(self._y.shape), weights, valid, weight_sum)


class TargetReader:
    """Reads the targets of one layer, which are numbers from 0 to 1, call after call."""

    def __init__(self, layer, ignore_label=None):
        """Takes the `LossLayer`, and the target of elements that do not count, or None."""
        rule = "a target must be a number from 0 to 1"
        self._ignore = ignore_label
        rule = rule if ignore_label is None else f"{rule}, or {ignore_label} (ignore_label)"
        self._wrong = WrongValues.of(layer, rule)
        compiled = loops.module("pylayers.losses.labels_loops")
        self._read = compiled.read_targets if compiled else read_targets

    def read(self, xp, target):
        """Checks targets, and finds those that count.

        Args:
            xp: NumPy or CuPy.
            target: float array.

        Returns:
            An array of bools in its shape, where it counts, or None for everywhere; and the number of those that count.

        Raises:
            ValueError: a target is wrong.
        """
        if xp is not np:
            self._wrong.raise_reported()
            counts, wrong = find_targets(xp, target.reshape(-1), self._ignore)
            self._wrong.report(xp, target.reshape(-1), wrong)
            return counts.reshape(target.shape), xp.count_nonzero(counts)
        counts = None if self._ignore is None else np.empty(target.shape, bool)
        arrays = target.reshape(-1), self._ignore, None if counts is None else counts.reshape(-1)
        valid, wrong = zip(*map_tiles(lambda tile: self._read(*arrays, *tile[2:]), tiles(1, target.size, TILE)))
        self._wrong.fail_first(arrays[0], wrong)
        return counts, sum(valid)


class WrongValues:
    """The error for a wrong label or target of one layer, its bottom 1.

    A layer has one of them as long as it lives, as what the GPU has noted must outlast a change of shapes.
    """

    def __init__(self, layer):
        """Takes the `LossLayer`."""
        self._layer = layer
        self.rule = ""  # what a value must be
        self._on_host = self._on_gpu = None  # one plus the index of a wrong value, and the value
        self._noted_for = None  # the shape and the rule of the values that the GPU looks at

    @classmethod
    def of(cls, layer, rule):
        """That of a layer, with what a value must be from now on, for the error message."""
        if not hasattr(layer, "wrong_values"):
            layer.wrong_values = cls(layer)
        layer.wrong_values.rule = rule
        return layer.wrong_values

    def fail(self, value, index, shape=None, rule=None):
        """Raises ValueError for a value, whose index is that in the flattened bottom; `shape` is the bottom's."""
        shape, index = shape or self._layer.shapes[1], int(index)
        # Where the shapes have changed since, the index may lie outside.
        inside = index < math.prod(shape)
        place = tuple(map(int, np.unravel_index(index, shape))) if inside else f"element {index}"
        self._layer.fail(f"{self._layer.name_bottom(1)} holds {value:g} at {place}; {rule or self.rule}")

    def fail_first(self, values, wrong):
        """Raises ValueError for the first value that a tile has found wrong; `wrong` has an index for each, or −1."""
        first = next((index for index in wrong if index >= 0), None)
        if first is not None:
            self.fail(values[first], first)

    def report(self, xp, values, wrong):
        """Lets the GPU note the first of `values` where `wrong` holds. Nothing waits for it."""
        if self._on_gpu is None:
            self._on_host, self._on_gpu = gpu.backend.shared_numbers(2)
        self._noted_for = self._layer.shapes[1], self.rule
        first = xp.argmax(wrong)
        found = xp.stack([first + 1, values[first]]).astype(xp.float64)
        self._on_gpu[...] = xp.where(wrong[first], found, self._on_gpu)

    def raise_reported(self):
        """Raises ValueError for a wrong value that the GPU has noted by now."""
        if self._on_host is None or not self._on_host[0]:
            return
        gpu.backend.wait()  # what is under way might note the same value again
        number, value = self._on_host
        self._on_host[...] = 0
        self.fail(value, number - 1, *self._noted_for)


def expected(classes, ignore_label):
    """What a label must be, for error messages."""
    text = f"a label must be a whole number from 0 to {classes - 1}"
    return text if ignore_label is None else f"{text}, or {ignore_label} (ignore_label)"


def find_classes(xp, label, classes, ignore):
    """The class of each label, int32, `IGNORED` where it is ignored or wrong; and where labels are wrong.

    Args:
        xp: NumPy or CuPy.
        label: float array.
        classes: the number of classes.
        ignore: the label of positions that do not count, or None.
    """
    good = (label >= 0) & (label < classes) & (label == xp.floor(label))  # false where a label is NaN
    wrong = ~good
    if ignore is not None:
        ignored = label == ignore
        good, wrong = good & ~ignored, wrong & ~ignored
    return xp.where(good, label, IGNORED).astype(xp.int32), wrong


@quietly
def read_labels(label, classes, ignore, class_weights, weight, y, weights, start, stop):
    """Checks labels from `start` to before `stop`, and writes the class and the weight of each, with NumPy.

    Args:
        label: float (n,).
        classes: the number of classes.
        ignore: the label of positions that do not count, or None.
        class_weights: float64 (classes,), or None.
        weight: float (m,) where m divides n, each for n/m labels; or None.
        y: int32 (n,), the classes of the previous call, overwritten with those of this one.
        weights: float64 (n,), overwritten with the weights; None where `class_weights` and `weight` are both None.
        start: the index of the first label.
        stop: one past that of the last.

    Returns:
        The number of labels that count, the sum of their weights, whether `y` has changed, and where the first wrong
        label is, or −1. With a wrong label only the last two mean anything.
    """
    found, wrong = find_classes(np, label[start:stop], classes, ignore)
    if wrong.any():
        return 0, 0.0, True, start + int(np.argmax(wrong))
    counts = found >= 0
    valid = int(np.count_nonzero(counts))
    weight_sum = float(valid)
    if weights is not None:
        part = weights[start:stop]
        part[:] = 1.0 if class_weights is None else class_weights[np.maximum(found, 0)]
        if weight is not None:
            part *= weight[np.arange(start, stop) // (label.size // weight.size)]
        weight_sum = float(np.sum(part, where=counts))
    changed = not np.array_equal(found, y[start:stop])
    y[start:stop] = found
    return valid, weight_sum, changed, -1


def find_targets(xp, target, ignore):
    """Where a target counts, and where it is wrong; the arguments are as for `find_classes`."""
    good = (target >= 0) & (target <= 1)  # false where a target is NaN
    if ignore is None:
        return good, ~good
    ignored = target == ignore
    return good & ~ignored, ~(good | ignored)


@quietly
def read_targets(target, ignore, counts, start, stop):
    """Checks targets from `start` to before `stop` with NumPy.

    Args:
        target: float (n,).
        ignore: the target of elements that do not count, or None.
        counts: bool (n,), overwritten with where a target counts; None where `ignore` is None.
        start: the index of the first target.
        stop: one past that of the last.

    Returns:
        The number of targets that count, and where the first wrong one is, or −1. With a wrong one only the last means
        anything.
    """
    found, wrong = find_targets(np, target[start:stop], ignore)
    if wrong.any():
        return 0, start + int(np.argmax(wrong))
    if counts is not None:
        counts[start:stop] = found
    return int(np.count_nonzero(found)), -1


def classes_axis(layer, index=0):
    """Splits the shape of a layer's scores at its option ``axis``.

    Args:
        layer: a `LossLayer` with that option, whose shapes are known.
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


def check_labels(layer, classes=None, hint=""):
    """Checks the axis of bottom 0, the numbers of labels in bottom 1 and of weights in bottom 2, and class_weights.

    Args:
        layer: a `LossLayer` with the options ``axis`` and, if it has such weights, ``class_weights``, whose shapes are
            known.
        classes: the number of classes, where it is not that of the scores.
        hint: more words for the error about the number of labels.

    Returns:
        (outer, classes, inner) of the scores.

    Raises:
        ValueError: one of them does not fit.
    """
    (outer, channels, inner), axis = classes_axis(layer)
    shape = layer.shapes[0]
    if math.prod(layer.shapes[1]) != outer * inner:
        layer.fail_bottom(
            1,
            f"{outer * inner} labels, one for each position of {layer.name_bottom(0)} of shape "
            f"{shape} without axis {axis}, each a whole number from 0 to {(classes or channels) - 1}{hint}",
        )
    layer.check_weight(2, like=1)
    check_per_class(layer, "class_weights", channels, axis)
    return outer, channels, inner


def check_per_class(layer, key, classes, axis, what="class"):
    """Checks that an option, if the layer has it and it is given, has one number for each class or channel.

    Raises:
        ValueError: it has more or fewer.
    """
    numbers = getattr(layer.options, key, None)
    if numbers is not None and len(numbers) != classes:
        layer.fail(
            f'param_str key "{key}" must have {classes} numbers, one for each {what} of '
            f"{layer.name_bottom(0)} of shape {layer.shapes[0]} along axis {axis}, found {len(numbers)}"
        )


def pos_weight_shape(layer):
    """The shape in which a layer's option ``pos_weight``, a number or a list, goes with its scores, bottom 0.

    Raises:
        ValueError: it is a list that has not one number for each channel along the option ``axis``, or there is no such
            axis.
    """
    shape = layer.shapes[0]
    if not isinstance(layer.options.pos_weight, list):
        return (1,) * len(shape)
    (_, channels, _), axis = classes_axis(layer)
    check_per_class(layer, "pos_weight", channels, axis, "channel")
    return tuple(channels if index == axis else 1 for index in range(len(shape)))
