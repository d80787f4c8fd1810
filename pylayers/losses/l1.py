"""L1 loss: the sum of absolute differences."""

from pylayers.losses.normalization import OF_ELEMENTS
from pylayers.losses.smooth_l1.layer import SmoothL1LossLayer


class L1LossLayer(SmoothL1LossLayer):
    """The absolute differences between predictions and targets: smooth L1 loss without the square near 0.

        E = 1/Z · Σ w |pred − target|

    Bottoms:
        pred (N, ...): the predictions.
        target: as many elements as pred, the same N. The other axes need not agree, as in Caffe's EuclideanLoss.
        weight (optional): w, one for each element of pred, or one for each of the N items. Any numbers; they are not
            checked. A constant: it gets no gradient.

    Top:
        loss (): E.

    Options (param_str):
        normalization: what Z is. "BATCH_SIZE" (default): N. "FULL": the number of elements of pred. "NONE": 1.

    The gradient is g · w · sign(pred − target) / Z for pred, 0 where the two are equal, and its negative for target; g
    is the loss weight.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "pred"  bottom: "target"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "L1LossLayer"  param_str: '{"normalization": "FULL"}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer.

    Source: Caffe's reduction_layer.cpp, operation ASUM, of the difference.
    """

    OPTIONAL_BOTTOMS = CONSTANTS = ("weight",)
    OPTIONS = {"normalization": OF_ELEMENTS}

    def curve(self):
        """β = 0; σ² is not used."""
        return 0.0, 0.0

    def prepare(self, xp, pred, target, weight=None):
        """The weight is that outside of f."""
        return super().prepare(xp, pred, target, None, weight)
