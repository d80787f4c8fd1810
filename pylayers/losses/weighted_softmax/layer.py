"""Weighted softmax loss: Caffe's SoftmaxWithLoss, with a weight for each class and for each label."""

import ctypes
import math

import numpy as np

from pylayers.kernel_layer import KernelLossLayer, Plan, block_shape, blocks_for, wide
from pylayers.params import Choice, Integer, Numbers
from pylayers.runtime import gpu as blobs
from pylayers.runtime import loops
from pylayers.runtime.tiles import SHORT, map_tiles, tiles

# Scores that a thread of a kernel keeps in registers: as few as it has, or that many at a time where it has more.
CHUNKS = (4, 8, 16, 24, 32)
_CHUNK_OF_MANY = 8
# What there is for each position beside its scores, the index of the label's own and so on, in elements.
_OF_POSITION = 8


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

    # What the last forward has left for each position: the label's class, and `_shift` and `_other` of the loops.
    _index = np.empty((0, 0), np.int32)

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
        self._class_weights = None if weights is None else np.array(weights, float)
        # With all classes of each position in one piece.
        size = max(1, loops.chosen().TILE // (self._classes + _OF_POSITION), min(self._inner, SHORT))
        self._pieces = tiles(self._outer, self._inner, size)
        if self._index.shape != (self._outer, self._inner):
            self._index = np.empty((self._outer, self._inner), np.int32)
            self._shift, self._other = np.empty((2, self._outer, self._inner), np.float32)

    def forward_cpu(self, bottom, top):
        """E = 1/Z · Σ w log(1 + Σ exp(x_j) / exp(x_y)), the inner sum over j ≠ y; the pieces summed in float64."""
        weights, normalizer = self._read_labels(bottom)
        losses = loops.chosen().softmax_losses
        prob = self._split(top[1].data) if len(top) > 1 else None
        arguments = self._split(bottom[0].data), self._index, weights, self._shift, self._other, prob
        total = sum(map_tiles(lambda piece: losses(*arguments, *piece), self._pieces))
        self.kept = True
        return total / normalizer if normalizer else 0.0

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """g·w·(softmax(x) − 1_y)/Z, 0 where ignored, with what the last forward kept for each position."""
        weights, normalizer = self._read_labels(bottom)
        if self.kept is None:
            self.forward_cpu(bottom, ())
        gradients = loops.chosen().softmax_gradients
        scale = loss_weight / normalizer if normalizer else 0.0
        scores, diff = self._split(bottom[0].data), self._split(bottom[0].diff)
        arguments = scores, self._index, weights, self._shift, self._other, scale, diff
        map_tiles(lambda piece: gradients(*arguments, *piece), self._pieces)

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
        """An array in the shape of the scores as (outer, C, inner)."""
        return array.reshape(self._outer, self._classes, self._inner)

    def _read_labels(self, bottom):
        """Checks the labels, and keeps their classes; gives their weights and Z."""
        label = bottom[1].data.reshape(-1)
        weight = bottom[2].data.reshape(-1) if len(bottom) > 2 else None
        weights = None if weight is None and self._class_weights is None else np.empty(label.size)
        valid, total, changed, wrong = loops.chosen().read_labels(
            label,
            self._classes,
            self.options.ignore_label,
            self._class_weights,
            weight,
            self._index.reshape(-1),
            weights,
        )
        if changed:
            self.kept = None
        if wrong >= 0:
            self._fail_label(label[wrong], self.shapes[1], wrong)
        if weights is not None:
            weights = weights.reshape(self._index.shape)
        kind = self.options.normalization
        if kind == "WEIGHT_SUM":
            return weights, total
        divisors = {"VALID": valid, "FULL": label.size, "BATCH_SIZE": self._outer, "NONE": 1}
        return weights, max(1, divisors[kind])

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
