"""Weighted softmax loss: Caffe's SoftmaxWithLoss, with a weight for each class and for each label."""

import ctypes
import functools
import math
from typing import NamedTuple, Optional

import numpy as np

from pylayers import blobs
from pylayers.gpu import KernelLossLayer, Plan, block_shape, blocks_for, wide
from pylayers.layer import by_item
from pylayers.params import Choice, Integer, Numbers
from pylayers.tiles import SHORT, TILE, aligned, map_tiles, sum_classes, tiles

# Scores that a thread of a kernel keeps in registers: as few as it has, or that many at a time where it has more.
CHUNKS = (4, 8, 16, 24, 32)
_CHUNK_OF_MANY = 8
# What there is for each position beside its scores, the index of the label's own and so on, in elements.
_OF_POSITION = 8
# exp(x) serves as it is where the label's own is not below 1/_TAME and no sum of them above: where |x| is at most 30,
# say. A factor of g·w/Z over such a sum lies in float32's range where the largest g·w/Z is from 1/_USUAL to _USUAL.
_TAME = 1e13
_USUAL = 1e17


class WeightedSoftmaxLossLayer(KernelLossLayer):
    """E = 1/Z · Σ w_y · w_i · (logsumexp(scores) − scores_y), Caffe's SoftmaxWithLoss where all weights are 1.

    The sum runs over the positions i whose label y is not `ignore_label`.

    Bottoms:
        scores: (N, ..., C, ...), C classes along `axis`, unnormalized.
        label: one whole number from 0 to C − 1, or `ignore_label`, for each position: as many elements as
            scores without `axis`. Constant: it gets no gradient.
        weight: optional, w_i: one for each label, or one for each item of the batch (N elements). Any
            values; they are not checked. Constant.

    Tops:
        loss: E, shape ().
        prob: optional, the softmax of the scores, in their shape. Nothing is back-propagated from it. Caffe
            wants a loss_weight for each top or for none: ``loss_weight: 1 loss_weight: 0``.

    Options (param_str):
        axis: the classes' axis, 1 by default; negative ones count from the end.
        ignore_label: the label of positions that do not count; none by default.
        class_weights: w_y, a list of C finite numbers; all 1 by default.
        normalization: Z. "VALID" (default): the number of labels that are not ignored. "FULL": of all labels.
            "BATCH_SIZE": the product of the axes before `axis`. "NONE": 1. These are Caffe's, at least 1 as
            there, and do not depend on the weights. "WEIGHT_SUM": Σ w_y · w_i over the labels that are not
            ignored, meant for weights that are not negative; where that sum is 0, so are loss and gradient.

    Gradient: g·w_y·w_i·(softmax(scores) − 1_y)/Z, g being the loss weight; 0 where ignored. As with Caffe's layer the
    scores must be those of the last forward; labels and weights that have changed since are seen. On the GPU Z is that
    of the last forward.

    On the GPU nothing waits for the kernels, so a wrong label shows at the next call of this layer: as a rule in
    backward, at the latest in the next forward. Until then its position counts as ignored.

    Where a probability underflows, Caffe's loss saturates at −log(FLT_MIN) = 87.3365; this one does not.

    Raises:
        ValueError: from `reshape`, for options and shapes that do not fit; from `forward` and `backward`, for
            a label out of range, not whole, or NaN.

    Sources: Caffe's softmax_loss_layer.cpp and infogain_loss_layer.cpp; WEIGHT_SUM is U-Net's and PyTorch's mean.
    """

    BOTTOMS = ("scores", "label")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("label", "weight")
    OPTIONAL_TOPS = ("prob",)
    KERNELS = "weighted_softmax_loss"
    NEEDS_FORWARD = True  # Z, and the look at all labels
    OPTIONS = {
        "axis": Integer(1),
        "ignore_label": Integer(None),
        "class_weights": Numbers(None),
        "normalization": Choice("VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"),
    }
    _wrong_label = None  # until the first launch

    _exp = np.empty(0, np.float32)  # exp(x) of the last forward, up to a factor, as Caffe's layer keeps probabilities

    def reshape(self, bottom, top):
        """Shapes the tops."""
        super().reshape(bottom, top)
        if len(top) > 1:
            top[1].reshape(*self.shapes[0])

    def check_shapes(self):
        """Checks the axis, and the numbers of labels and of weights."""
        shape = self.shapes[0]
        axis = self.options.axis + len(shape) if self.options.axis < 0 else self.options.axis
        if not 0 <= axis < len(shape):
            self.fail(
                f'param_str key "axis" must be from {-len(shape)} to {len(shape) - 1} for '
                f"{self.name_bottom(0)} of shape {shape}, found {self.options.axis}"
            )
        self._outer, self._classes, self._inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        if math.prod(self.shapes[1]) != self._outer * self._inner:
            self.fail_bottom(
                1,
                f"{self._outer * self._inner} labels, one for each position of {self.name_bottom(0)} of shape "
                f"{shape} without axis {axis}, each a whole number from 0 to {self._classes - 1}",
            )
        self.check_weight(2, like=1)
        weights = self.options.class_weights
        if weights is not None and len(weights) != self._classes:
            self.fail(
                f'param_str key "class_weights" must have {self._classes} numbers, one for each class of '
                f"{self.name_bottom(0)} of shape {shape} along axis {axis}, found {len(weights)}"
            )
        self._class_weights = None if weights is None else np.array(weights)
        self._split_shape = (self._outer, -1) if self._inner == 1 else (self._outer, -1, self._inner)
        self._pieces = list(self._cut())

    def forward_cpu(self, bottom, top):
        """E = 1/Z · Σ w log(1 + Σ exp(x_j) / exp(x_y)), the inner sum over j ≠ y; the pieces summed in float64."""
        labels = self._labels(bottom)
        scores = self._split(bottom[0].data)
        prob = self._split(top[1].data) if len(top) > 1 else None
        totals = np.empty(labels.index.shape, np.float32)
        if self._exp.size != scores.size:
            self._exp = aligned(scores.size)

        def piece(part):
            tile, kept = part
            x, flat, total = scores[tile], self._exp[kept], totals[tile]
            y = self._flat_index(labels.index[tile])
            own, other, loss = _plain_terms(x, y, flat, total) or _shifted_terms(x, y, flat, total)
            if prob is not None:
                flat[y] = own
                np.divide(flat.reshape(x.shape), total, out=prob[tile])
            # What backward wants there: p_y − 1 without the loss of digits in that difference.
            flat[y] = -other
            return self._weighted_sum(loss, labels, tile)

        total = sum(map_tiles(piece, self._pieces))
        self.kept = _Kept([blob.data.tobytes() for blob in bottom[1:]], labels._replace(index=None), totals)
        return total / labels.normalizer if labels.normalizer else 0.0

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """g·w·(softmax(x) − 1_y)/Z, 0 where ignored, with what the last forward kept."""
        if self.kept is None or self.kept.given != [blob.data.tobytes() for blob in bottom[1:]]:
            self.forward_cpu(bottom, ())
        _, labels, totals = self.kept
        diff = self._split(bottom[0].diff)
        scale = loss_weight / labels.normalizer if labels.normalizer else 0.0
        usual = 1 / _USUAL < abs(scale) * labels.largest < _USUAL

        def piece(part):
            tile, kept = part
            factor = scale if labels.weight is None else scale * labels.weight[tile]
            gradient = diff[tile]
            exp = self._exp[kept].reshape(gradient.shape)
            if usual:
                np.multiply(exp, (factor / totals[tile]).astype(np.float32, copy=False), out=gradient)
            else:
                np.divide(exp, totals[tile], out=gradient)
                np.multiply(gradient, np.float32(factor), out=gradient)
            if labels.ignored is not None:
                np.copyto(gradient, 0, where=labels.ignored[tile])

        map_tiles(piece, self._pieces)

    def plan(self, processors):
        """A lane for each position, its classes shared by the rows."""
        positions = self._outer * self._inner
        threads, rows = block_shape(positions, self._classes, self._inner, processors)
        of_thread = math.ceil(self._classes / rows)
        # Blobs with 64-bit indices are too rare for more than one variant.
        once = of_thread <= CHUNKS[-1] and not wide(self.shapes)
        normalization = self.options.normalization
        divisors = {"FULL": positions, "BATCH_SIZE": self._outer, "NONE": 1}
        return Plan(
            threads=threads,
            blocks=blocks_for(math.ceil(positions * rows / threads), threads, processors),
            macros={
                "WIDE": wide(self.shapes),
                "ONCE": int(once),
                "CHUNK": next(chunk for chunk in CHUNKS if chunk >= of_thread) if once else _CHUNK_OF_MANY,
            },
            fields={
                "positions": positions,
                "inner": self._inner,
                "classes": self._classes,
                "per_weight": positions // math.prod(self.shapes[2]) if len(self.shapes) > 2 else 1,
                "ignores": self.options.ignore_label is not None,
                "ignore_label": self.options.ignore_label or 0,
                # The enum in the kernels' file.
                "normalization": {"VALID": 0, "WEIGHT_SUM": 2}.get(normalization, 1),
                "normalizer": divisors.get(normalization, 1),
                "rows": rows,
            },
        )

    def extra_pointers(self):
        """The class weights, and where the kernels report a wrong label."""
        if self._wrong_label is None:
            self._kept = []  # as long as the launchers, which have the addresses
            self._shared = blobs.shared_memory(ctypes.sizeof(_WrongLabel))
            self._wrong_label = _WrongLabel.from_address(self._shared.ptr)
        pointers = {"wrong": self._shared.ptr}
        if self.options.class_weights is not None:
            weights = blobs.gpu_array(self.options.class_weights)
            self._kept.append(weights)
            pointers["class_weights"] = weights.data.ptr
        return pointers

    def before_launch(self):
        """Raises ValueError for a wrong label that a kernel has reported by now."""
        if self._wrong_label is None or not self._wrong_label.number:
            return
        blobs.wait_for_gpu()  # a kernel that still runs might report the same label again
        number, value = self._wrong_label.number, self._wrong_label.value
        self._wrong_label.number = 0
        self._fail_label(value, self.shapes[1], number - 1)

    def _split(self, array):
        """An array in the shape of the scores as (outer, C), or (outer, C, inner) where there are inner axes."""
        return array.reshape(self._split_shape)

    def _cut(self):
        """Pieces of what `_split` gives, with all classes of each position in one piece; and where each is kept."""
        size = max(1, TILE // (self._classes + _OF_POSITION), min(self._inner, SHORT))
        start = 0
        for outer, inner in tiles(self._outer, self._inner, size):
            stop = start + (outer.stop - outer.start) * self._classes * (inner.stop - inner.start)
            tile = (outer, slice(None)) if self._inner == 1 else (outer, slice(None), inner)
            yield tile, slice(start, stop)
            start = stop

    def _flat_index(self, label):
        """Where the labels' own scores lie in a piece's memory; label has shape (rows, 1) or (rows, 1, columns)."""
        if label.ndim == 2:
            return _offsets(label.shape, self._classes) + label
        columns = label.shape[2]
        return _offsets(label.shape, self._classes * columns) + label * np.intp(columns)

    def _labels(self, bottom):
        """Checks the labels; returns them with their weights and Z."""
        label, ignored, weight = bottom[1].data, None, None
        valid = label
        if self.options.ignore_label is not None:
            ignored = label == self.options.ignore_label
            valid = np.where(ignored, np.float32(0), label)
        # Not true either where a label is NaN.
        if not (valid.min() >= 0 and valid.max() < self._classes and (valid == np.floor(valid)).all()):
            good = (valid >= 0) & (valid < self._classes) & (valid == np.floor(valid))
            first = np.argmin(good)
            self._fail_label(label.reshape(-1)[first], label.shape, first)
        index = valid.astype(np.int32)
        if self._class_weights is not None:
            weight = np.take(self._class_weights, index)
        if len(bottom) > 2:
            given = np.broadcast_to(by_item(bottom[2].data), by_item(label).shape).astype(np.float64)
            weight = given if weight is None else by_item(weight) * given
        normalizer = self._normalizer(label.size, ignored, weight)
        largest = 1.0 if weight is None else np.abs(weight).max()
        split = [None if each is None else self._split(each) for each in (index, ignored, weight)]
        return _Labels(*split, largest, normalizer)

    def _normalizer(self, count, ignored, weight):
        """Z, for `count` labels."""
        valid = count if ignored is None else count - np.count_nonzero(ignored)
        if self.options.normalization == "WEIGHT_SUM":
            if weight is None:
                return valid
            return np.sum(weight) if ignored is None else np.sum(weight, where=~ignored.reshape(weight.shape))
        divisors = {"VALID": valid, "FULL": count, "BATCH_SIZE": self._outer, "NONE": 1}
        return max(1, divisors[self.options.normalization])

    @staticmethod
    def _weighted_sum(loss, labels, tile):
        if labels.weight is not None:
            loss = loss * labels.weight[tile]
        if labels.ignored is not None:
            loss[labels.ignored[tile]] = 0
        return float(np.add.reduce(loss, None, np.float64))

    def _fail_label(self, value, shape, flat_index):
        position = tuple(int(axis) for axis in np.unravel_index(flat_index, shape))
        ignore = self.options.ignore_label
        self.fail(
            f"{self.name_bottom(1)} holds {value:g} at {position}; a label must be a whole number from "
            f"0 to {self._classes - 1}" + ("" if ignore is None else f", or {ignore} (ignore_label)")
        )


class _WrongLabel(ctypes.Structure):
    """What a kernel says of a label that is no class; the struct WrongLabel in the kernels' file."""

    _fields_ = [("number", ctypes.c_longlong), ("value", ctypes.c_float)]


class _Labels(NamedTuple):
    """The labels, shaped as `_split` gives the scores but with one class."""

    index: np.ndarray  # int32; 0 where ignored. Forward alone needs it
    ignored: Optional[np.ndarray]  # bool
    weight: Optional[np.ndarray]  # w_y · w_i, float64; None for all 1
    largest: float  # the largest |w_y · w_i|
    normalizer: float  # Z


class _Kept(NamedTuple):
    """What backward takes from the last forward, for each position."""

    given: list  # the bytes of the label, and of the weight
    labels: _Labels
    totals: np.ndarray  # the sum of what is kept in place of exp(x)


def _plain_terms(x, y, flat, total):
    """A piece's terms where its scores are neither so large nor so small that exp leaves float32.

    Args:
        x: the scores, (n, C) or (n, C, inner).
        y: where the labels' own lie in the piece's memory, (n, 1) or (n, 1, inner).
        flat: memory for the piece. It is left with exp(x), but 0 for the labels' own.
        total: array for Σ exp(x), in the shape of `y`.

    Returns:
        exp(x_y), the sum of the other classes, and the loss, in the shape of `y`; None where the scores are not such.
    """
    exp = flat.reshape(x.shape)
    with np.errstate(over="ignore"):
        np.exp(x, out=exp)
        own = flat[y]
        # Without it the sum keeps its small terms, and with them a small loss.
        flat[y] = 0
        other = sum_classes(exp)
        np.add(other, own, out=total)
    if not (own.min() >= 1 / _TAME and total.max() <= _TAME):  # or NaN
        return None
    return own, other, np.log1p(other / own)


def _shifted_terms(x, y, flat, total):
    """As `_plain_terms`, for any scores: of exp(x − max x), which cannot overflow, and whose sum is at least 1."""
    shifted = np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), out=flat.reshape(x.shape))
    shifted_y = flat[y]
    exp, own = np.exp(shifted, out=shifted), np.exp(shifted_y)
    flat[y] = 0
    other = sum_classes(exp)
    np.add(other, own, out=total)
    return own, other, np.log1p(np.add(other, own - 1, dtype=np.float64)) - shifted_y


@functools.lru_cache(maxsize=16)
def _offsets(shape, row_size):
    """Where the rows of a piece begin and its columns lie, for labels of `shape`, in its memory."""
    rows = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) * row_size
    return rows + np.arange(shape[2]) if len(shape) == 3 else rows
