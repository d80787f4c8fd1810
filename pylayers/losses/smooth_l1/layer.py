"""Smooth L1 loss: half a square near 0, and a straight line far from it, as Fast R-CNN's SmoothL1Loss."""

import math

from pylayers.losses.looped import LoopedLossLayer, sum_elements, write_elements
from pylayers.losses.normalization import OF_ELEMENTS, counted_terms
from pylayers.losses.smooth_l1 import formula
from pylayers.params import Number
from pylayers.runtime.tiles import quietly

_LARGEST = 1e19  # the largest σ whose square float32 holds


class SmoothL1LossLayer(LoopedLossLayer):
    """Smooth L1 loss, as the SmoothL1Loss of Fast R-CNN's fork of Caffe.

        E = 1/Z · Σ w_out f(w_in (pred − target)), f(x) = (σx)²/2 where |x| < 1/σ², else |x| − 1/(2σ²)

    Bottoms:
        pred (N, ...): the predictions.
        target: as many elements as pred, the same N. The other axes need not agree, as in Caffe's EuclideanLoss.
        inside_weight (optional): w_in, one for each element of pred, or one for each of the N items. It says which
            elements count: 1 for the box of the class that an anchor has, else 0. A constant: it gets no gradient.
        outside_weight (optional): w_out, as many as inside_weight may have. It scales the terms. A constant.

    Top:
        loss (): E.

    Options (param_str):
        sigma: σ, above 0, 1 by default. The square ends at 1/σ²; Faster R-CNN's proposals have 3.
        normalization: what Z is. "BATCH_SIZE" (default): N. "FULL": the number of elements of pred. "NONE": 1.

    The gradient is g · w_out w_in f′(w_in (pred − target)) / Z for pred, and its negative for target, where g is the
    loss weight. Weights may be any numbers; they are not checked. Backward reads the bottoms again.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "pred"  bottom: "target"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "SmoothL1LossLayer"  param_str: '{"sigma": 3}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer.

    Sources: Girshick, "Fast R-CNN" (ICCV 2015, arXiv 1504.08083), equation 3; σ is Faster R-CNN's (arXiv 1506.01497).
    Fast R-CNN's layer divides by N.
    """

    BOTTOMS = ("pred", "target")
    OPTIONAL_BOTTOMS = ("inside_weight", "outside_weight")
    CONSTANTS = ("inside_weight", "outside_weight")
    OPTIONS = {"sigma": Number(1.0, above=0), "normalization": OF_ELEMENTS}
    LOOPS = "pylayers.losses.smooth_l1.loops"

    def curve(self):
        """β and σ². Where float32 cannot hold σ² there is no square left: both are 0, as for the L1 loss."""
        sigma = self.options.sigma
        if sigma > _LARGEST:
            return 0.0, 0.0
        return 1 / sigma / sigma, sigma * sigma

    def check_shapes(self):
        """Checks that pred and target have the same number of elements, and the numbers of weights."""
        self.check_same_count(1, like=0)
        for index in range(2, len(self.shapes)):
            self.check_weight(index, like=0)
        self._terms = counted_terms(self.options.normalization, self.shapes[0][0], math.prod(self.shapes[0]))

    def prepare(self, xp, pred, target, inside=None, outside=None):
        """Gives target and weights shapes that go with that of pred."""
        weights = (None if weight is None else self.expand_weight(weight, pred) for weight in (inside, outside))
        return self._terms, (pred, target.reshape(pred.shape), *weights)

    @quietly
    def loss(self, xp, pred, target, inside, outside):
        """Σ w_out f(w_in (pred − target))."""
        terms = formula.terms(xp, _times(inside, pred - target), *self.curve())
        return xp.sum(_times(outside, terms), dtype=xp.float64)

    @quietly
    def gradients(self, xp, pred, target, inside, outside):
        """w_out w_in f′(w_in (pred − target)), and its negative."""
        slopes = formula.slopes(xp, _times(inside, pred - target), *self.curve())
        gradient = _times(outside, _times(inside, slopes))
        return gradient, -gradient.reshape(self.shapes[1])

    def loss_by_loops(self, *arrays):
        """The loss by one pass over memory."""
        return sum_elements(lambda *parts: self.loops.total(*parts, *self.curve()), *arrays)

    def write_by_loops(self, scale, diffs, *arrays):
        """The gradients by one pass over memory each."""
        for sign, diff in zip((1, -1), diffs):
            if diff is not None:
                numbers = *self.curve(), sign * scale
                write_elements(lambda *parts, n=numbers: self.loops.write_gradient(*parts, *n), diff, *arrays)


def _times(weight, values):
    return values if weight is None else weight * values
