"""Weighted softmax loss: Caffe's SoftmaxWithLoss, with a weight for each class and for each label."""

import math

import numpy as np

from pylayers.layer import LossLayer, by_item
from pylayers.params import Choice, Integer, Numbers
from pylayers.tiles import TILE, tiles


class WeightedSoftmaxLossLayer(LossLayer):
    """E = 1/Z · Σ w_y · w_i · (logsumexp(scores) − scores_y), Caffe's SoftmaxWithLoss where all weights are 1.

    The sum runs over the positions i whose label y is not `ignore_label`.

    Bottoms:
        scores: (N, ..., C, ...), C classes along `axis`, unnormalized.
        label: one whole number from 0 to C − 1, or `ignore_label`, for each position: as many elements as
            scores without `axis`. Constant: it gets no gradient.
        weight: optional, w_i: one for each label, or one for each item of the batch (N elements). Any finite
            values. Constant.

    Tops:
        loss: E, shape ().
        prob: optional, the softmax of the scores, in their shape. Nothing is back-propagated from it.

    Options (param_str):
        axis: the classes' axis, 1 by default; negative ones count from the end.
        ignore_label: the label of positions that do not count; none by default.
        class_weights: w_y, a list of C finite numbers; all 1 by default.
        normalization: Z. "VALID" (default): the number of labels that are not ignored. "FULL": of all labels.
            "BATCH_SIZE": the product of the axes before `axis`. "NONE": 1. These are Caffe's, at least 1 as
            there, and do not depend on the weights. "WEIGHT_SUM": Σ w_y · w_i over the labels that are not
            ignored; where that sum is 0, the loss and the gradient are 0.

    Gradient: g·w_y·w_i·(softmax(scores) − 1_y)/Z, g being the loss weight; 0 where ignored.

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
    OPTIONS = {
        "axis": Integer(1),
        "ignore_label": Integer(None),
        "class_weights": Numbers(None),
        "normalization": Choice("VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM"),
    }

    def reshape(self, bottom, top):
        """Shapes the tops and checks the axis, and the numbers of labels and of weights."""
        super().reshape(bottom, top)
        shape = self.shapes[0]
        axis = self.options.axis + len(shape) if self.options.axis < 0 else self.options.axis
        if not 0 <= axis < len(shape):
            self.fail(
                f'param_str key "axis" must be from {-len(shape)} to {len(shape) - 1} for '
                f"{self.name_bottom(0)} of shape {shape}, found {self.options.axis}"
            )
        self._outer, self._classes, self._inner = (
            math.prod(shape[:axis]),
            shape[axis],
            math.prod(shape[axis + 1 :]),
        )
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
        if len(top) > 1:
            top[1].reshape(*shape)

    def forward_cpu(self, bottom, top):
        """E = 1/Z · Σ w (log Σ exp(x − max x) − (x_y − max x)), summed in float64."""
        label, valid, weight, normalizer = self._labels(bottom)
        prob = top[1].data.reshape(self._shape) if len(top) > 1 else None
        total = 0.0
        for tile, shifted, exp, exp_sum in self._softmax(bottom[0]):
            if prob is not None:
                prob[tile] = exp / exp_sum
            shifted_y = np.take_along_axis(shifted, label[tile], axis=1)
            total += np.sum(weight[tile] * (np.log(exp_sum) - shifted_y), where=valid[tile])
        return total / normalizer if normalizer else 0.0

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """g·w·(softmax(x) − 1_y)/Z, 0 where ignored."""
        label, valid, weight, normalizer = self._labels(bottom)
        scale = weight * (loss_weight / normalizer if normalizer else 0.0)
        diff = bottom[0].diff.reshape(self._shape)
        for tile, _, exp, exp_sum in self._softmax(bottom[0]):
            gradient = np.divide(exp, exp_sum, out=exp, casting="same_kind")
            prob_y = np.take_along_axis(gradient, label[tile], axis=1)
            np.put_along_axis(gradient, label[tile], prob_y - 1, axis=1)
            np.multiply(gradient, scale[tile], out=diff[tile], casting="same_kind")
            np.copyto(diff[tile], 0, where=~valid[tile])

    @property
    def _shape(self):
        return self._outer, self._classes, self._inner

    def _softmax(self, scores):
        """Yields, for each tile of the scores as (outer, C, inner): its slices, x − max x, exp of it, and Σ exp."""
        x = scores.data.reshape(self._shape)
        for outer, inner in tiles(self._outer, self._inner, max(1, TILE // self._classes)):
            tile = (outer, slice(None), inner)
            # exp cannot overflow, and the largest term of the sum is 1.
            shifted = x[tile] - x[tile].max(axis=1, keepdims=True)
            exp = np.exp(shifted)
            # float64 keeps the small terms beside the 1, and with them a small loss.
            yield tile, shifted, exp, exp.sum(axis=1, dtype=np.float64, keepdims=True)

    def _labels(self, bottom):
        """The labels as (outer, 1, inner): as indices, which of them count, and their weights; and Z."""
        shape = (self._outer, 1, self._inner)
        label = bottom[1].data
        with np.errstate(invalid="ignore"):  # NaN becomes some number; it is not equal to it
            index = label.astype(np.intp)
        valid = np.ones(label.shape, bool) if self.options.ignore_label is None else label != self.options.ignore_label
        good = (index == label) & (index >= 0) & (index < self._classes)
        if not np.all(good | ~valid):
            self._fail_label(label, np.argmin(good | ~valid))
        index = np.where(valid, index, 0)
        weight = (
            np.ones(label.shape) if self.options.class_weights is None else np.take(self.options.class_weights, index)
        )
        if len(bottom) > 2:
            weight = by_item(weight) * by_item(bottom[2].data)
        weight = weight.reshape(shape)
        valid = valid.reshape(shape)
        return index.reshape(shape), valid, weight, self._normalizer(valid, weight)

    def _normalizer(self, valid, weight):
        if self.options.normalization == "WEIGHT_SUM":
            return np.sum(weight, where=valid)
        return max(
            1,
            {
                "VALID": np.count_nonzero(valid),
                "FULL": valid.size,
                "BATCH_SIZE": self._outer,
                "NONE": 1,
            }[self.options.normalization],
        )

    def _fail_label(self, label, flat_index):
        position = tuple(int(axis) for axis in np.unravel_index(flat_index, label.shape))
        ignore = self.options.ignore_label
        self.fail(
            f"{self.name_bottom(1)} holds {label[position]:g} at {position}; a label must be a whole number from "
            f"0 to {self._classes - 1}" + ("" if ignore is None else f", or {ignore} (ignore_label)")
        )
