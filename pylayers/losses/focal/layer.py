"""Focal loss: cross-entropy in which labels that are found with ease count little (Lin et al. 2017)."""

import math

from pylayers.losses import labels
from pylayers.losses.focal import sigmoid, softmax
from pylayers.losses.looped import LoopedLossLayer
from pylayers.losses.normalization import counted_terms
from pylayers.params import Choice, Number, Numbers
from pylayers.runtime.tiles import quietly

_FORMS = {"SOFTMAX": softmax, "SIGMOID": sigmoid}


class FocalLossLayer(LoopedLossLayer):
    """Focal loss: the cross-entropy −log p of each label, times (1 − p)^γ.

        E = 1/Z · Σ w_y · w_i · (1 − p_i)^γ · (−log p_i), over the positions i whose label y counts

    With ``activation: SOFTMAX`` p is the softmax of the scores along `axis` at the label. With SIGMOID each score has a
    label of 0 or 1, and p is sigmoid(x) for 1, and sigmoid(−x) for 0. With γ = 0 the loss is that of
    WeightedSoftmaxLossLayer, or of SigmoidCrossEntropyLossLayer.

    Bottoms:
        scores (N, ..., C, ...): before softmax or sigmoid; C classes along `axis`.
        label: SOFTMAX: one whole number from 0 to C − 1, or `ignore_label`, for each position, which are those of
            scores without `axis`. SIGMOID: 0, 1 or `ignore_label` for each score. A constant: it gets no gradient.
        weight (optional): w_i, one for each label, or one for each of the N items. Any numbers; they are not checked. A
            constant.

    Top:
        loss (): E.

    Options (param_str):
        activation: "SOFTMAX" (default) or "SIGMOID".
        gamma: γ, at least 0, 2 by default.
        axis: the axis of the classes, 1 by default; negative ones count from the end.
        ignore_label: the label of what does not count; none by default.
        class_weights: w_y with SOFTMAX, a list of C finite numbers; all 1 by default.
        pos_weight: w_y with SIGMOID for the label 1, one number or a list with one for each channel along `axis`; 1 by
            default. The label 0 has 1.
        normalization: what Z is. SOFTMAX: as WeightedSoftmaxLossLayer's, "VALID" by default; "WEIGHT_SUM" is
            Σ w_y · w_i, without (1 − p)^γ. SIGMOID: as SigmoidCrossEntropyLossLayer's, "BATCH_SIZE" by default.

    The gradient is g / Z · w_y · w_i · ((1 − p)^γ + γ (1 − p)^(γ−1) p (−log p)) times that of −log p, where g is the
    loss weight; it is 0 where ignored. As with Caffe's layers the scores must be those of the last forward; labels and
    weights are read again.

    In GPU mode a wrong label raises its error at the layer's next call, and counts as ignored until then.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "scores"  bottom: "label"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "FocalLossLayer"  param_str: '{"gamma": 2, "ignore_label": 255}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer; a label is wrong, in forward and
            backward.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017, arXiv 1708.02002). It has the sigmoid, and
    divides by the number of anchors that have an object.
    """

    BOTTOMS = ("scores", "label")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("label", "weight")
    OPTIONS = {
        **labels.OPTIONS,
        "activation": Choice("SOFTMAX", "SIGMOID"),
        "gamma": Number(2.0, minimum=0),
        "pos_weight": Numbers(None, single=True),
        "normalization": Choice("VALID", "FULL", "BATCH_SIZE", "NONE", "WEIGHT_SUM", has_default=False),
    }
    LOOPS = "pylayers.losses.focal.loops"

    @classmethod
    def classes_of_labels(cls, options, shape):
        """That of the scores, or 2."""
        return 2 if options.activation == "SIGMOID" else shape[options.axis]

    @classmethod
    def check_options(cls, options):
        """Refuses the weights of the other activation, and gives normalization its default."""
        is_sigmoid = options.activation == "SIGMOID"
        other, own = ("class_weights", "pos_weight") if is_sigmoid else ("pos_weight", "class_weights")
        if getattr(options, other) is not None:
            raise ValueError(
                f'param_str key "{other}" does not go with "activation": "{options.activation}"; write "{own}"'
            )
        if is_sigmoid and options.normalization == "WEIGHT_SUM":
            raise ValueError(
                'param_str key "normalization" must be one of "BATCH_SIZE", "VALID", "FULL", "NONE" with '
                '"activation": "SIGMOID", found "WEIGHT_SUM"'
            )
        if options.normalization is None:
            options.normalization = "BATCH_SIZE" if is_sigmoid else "VALID"

    def check_shapes(self):
        """Checks the axis, and the numbers of labels and of weights."""
        self._form = _FORMS[self.options.activation]
        if self._form is softmax:
            hint = ', or "activation": "SIGMOID" in param_str for a label of each score'
            self._items, classes, inner = self._shape = labels.check_labels(self, hint=hint)
            positions = self._items, inner
        else:
            self.check_same_count(1, like=0)
            self.check_weight(2, like=0)
            self._pos_shape = labels.pos_weight_shape(self)
            self._items, classes, self._shape = self.shapes[0][0], 2, (math.prod(self.shapes[0]),)
            positions = self._shape
        self._labels = labels.LabelReader(self, classes, positions, self.options.ignore_label)

    @quietly
    def prepare(self, xp, scores, label, weight=None):
        """Reads the labels, and reshapes the scores to vectors or to (outer, C, inner)."""
        y, weights, valid, weight_sum = self._labels.read(xp, label, weight)
        if self.options.pos_weight is not None:
            pos_weight = xp.broadcast_to(self.constant(xp, "pos_weight").reshape(self._pos_shape), self.shapes[0])
            of_class = xp.where(y == 1, pos_weight.reshape(-1), 1)
            weights = of_class if weights is None else weights * of_class
        z = counted_terms(self.options.normalization, self._items, math.prod(y.shape), valid, weight_sum)
        return z, (scores.reshape(self._shape), y, weights, self.options.gamma)

    @quietly
    def loss(self, xp, scores, *arguments):
        """Σ w (1 − p)^γ (−log p)."""
        return self._form.loss(xp, scores.astype(xp.float64), *arguments)

    @quietly
    def gradients(self, xp, scores, *arguments):
        """Its gradient for the scores."""
        return self._form.gradient(xp, scores.astype(xp.float64), *arguments).reshape(self.shapes[0])

    def loss_by_loops(self, *arguments):
        """The loss by loops."""
        return self._form.loss_by_loops(self, *arguments)

    def write_by_loops(self, scale, diffs, *arguments):
        """The gradient by loops."""
        self._form.write_by_loops(self, scale, diffs[0], *arguments)
