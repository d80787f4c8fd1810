"""Sigmoid cross-entropy loss: Caffe's SigmoidCrossEntropyLoss, with weights, and a weight for what is positive."""

import math

from pylayers.losses import labels
from pylayers.losses.looped import LoopedLossLayer, sum_elements, write_elements
from pylayers.losses.normalization import counted_terms
from pylayers.losses.sigmoid_cross_entropy import formula
from pylayers.params import Choice, Integer, Numbers
from pylayers.runtime.tiles import TILE, quietly


class SigmoidCrossEntropyLossLayer(LoopedLossLayer):
    """Sigmoid and cross-entropy in one, as Caffe's SigmoidCrossEntropyLoss, with weights.

        E = 1/Z · Σ w · (pos_weight · t · softplus(−x) + (1 − t) · softplus(x)), over the elements whose target t counts

    softplus(x) is log(1 + exp(x)), and −log sigmoid(x) is softplus(−x).

    Bottoms:
        scores (N, ...): x, before the sigmoid.
        target: t, a number from 0 to 1 or `ignore_label`, for each score. As many elements as scores, the same N; the
            other axes need not agree, as in Caffe. A constant: it gets no gradient.
        weight (optional): w, one for each score, or one for each of the N items. Any numbers; they are not checked. A
            constant.

    Top:
        loss (): E.

    Options (param_str):
        ignore_label: the target of elements that do not count; none by default. Caffe cuts targets to whole numbers
            before it compares, so that with 0 a target of 0.7 is ignored; here the exact value is compared.
        pos_weight: the weight of what is positive, one number or a list with one for each channel along `axis`; 1 by
            default.
        axis: the channels' axis, 1 by default; negative ones count from the end. It matters for such a list alone.
        normalization: what Z is. "BATCH_SIZE" (default): N. "VALID": the number of targets that count, at least 1.
            "FULL": the number of targets. "NONE": 1. These are Caffe's. They do not depend on the weights.

    The gradient is g · w · ((1 − t) · sigmoid(x) − pos_weight · t · sigmoid(−x)) / Z, where g is the loss weight; it is
    0 where ignored. Backward reads the bottoms again.

    In GPU mode a wrong target raises its error at the layer's next call, and counts as ignored until then.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "scores"  bottom: "target"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "SigmoidCrossEntropyLossLayer"  param_str: '{"pos_weight": 3}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer; a target is not from 0 to 1, in
            forward and backward.

    Source: Caffe's sigmoid_cross_entropy_loss_layer.cpp.
    """

    BOTTOMS = ("scores", "target")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("target", "weight")
    OPTIONS = {
        "ignore_label": Integer(None),
        "pos_weight": Numbers(None, single=True),
        "axis": Integer(1),
        "normalization": Choice("BATCH_SIZE", "VALID", "FULL", "NONE"),
    }
    LOOPS = "pylayers.losses.sigmoid_cross_entropy.loops"

    @classmethod
    def classes_of_labels(cls, options, shape):
        """Targets of 0 and 1."""
        return 2

    def check_shapes(self):
        """Checks the numbers of targets and of weights, and pos_weight."""
        self.check_same_count(1, like=0)
        self.check_weight(2, like=0)
        self._pos_shape = labels.pos_weight_shape(self)
        self._targets = labels.TargetReader(self, self.options.ignore_label)

    @quietly
    def prepare(self, xp, scores, target, weight=None):
        """Checks the targets, multiplies them by pos_weight, and gives weights a shape that goes with the scores."""
        counts, valid = self._targets.read(xp, target)
        target = target.reshape(scores.shape)
        positive = target
        if self.options.pos_weight is not None:
            positive = target * self.constant(xp, "pos_weight").astype(target.dtype).reshape(self._pos_shape)
        counts = None if counts is None else counts.reshape(scores.shape)
        weight = None if weight is None else self.expand_weight(weight, scores)
        z = counted_terms(self.options.normalization, len(scores), math.prod(scores.shape), valid)
        return z, (scores, target, positive, counts, weight)

    @quietly
    def loss(self, xp, scores, target, positive, counts, weight):
        """Σ w (a softplus(−x) + (1 − t) softplus(x))."""
        return xp.sum(_weighed(xp, formula.terms(xp, scores, positive, 1 - target), counts, weight), dtype=xp.float64)

    @quietly
    def gradients(self, xp, scores, target, positive, counts, weight):
        """The gradient w ((1 − t) sigmoid(x) − a sigmoid(−x))."""
        return _weighed(xp, formula.slopes(xp, scores, positive, 1 - target), counts, weight)

    def loss_by_loops(self, *arrays):
        """The loss by one pass over memory."""
        return sum_elements(self.loops.total, *arrays, size=TILE // 4)

    def write_by_loops(self, scale, diffs, *arrays):
        """The gradient by one pass over memory."""
        write_elements(lambda *parts: self.loops.write_gradient(*parts, scale), diffs[0], *arrays, size=TILE // 4)


def _weighed(xp, values, counts, weight):
    values = values if weight is None else values * weight
    return values if counts is None else xp.where(counts, values, 0)
