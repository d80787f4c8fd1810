"""Losses as users of LossLayer would write them, for the tests of what the base class does."""

import caffe
import numpy as np

from pylayers import WeightedSoftmaxLossLayer
from pylayers.array_layer import ArrayLossLayer
from pylayers.layer import LossLayer
from pylayers.params import Choice


class L1LossLayer(LossLayer):
    """E = Σ |pred − target| / N, or without the 1/N."""

    OPTIONS = {"normalization": Choice("BATCH_SIZE", "NONE")}

    def check_shapes(self):
        self.check_same_shape(1, like=0)

    def forward_cpu(self, bottom, top):
        return np.abs(bottom[0].data - bottom[1].data).sum() / self._normalizer()

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        for sign, blob, wanted in zip((1, -1), bottom, propagate_down):
            if wanted:
                blob.diff[...] = sign * loss_weight * np.sign(bottom[0].data - bottom[1].data) / self._normalizer()

    def _normalizer(self):
        return self.shapes[0][0] if self.options.normalization == "BATCH_SIZE" else 1


class HuberLossLayer(ArrayLossLayer):
    """E = 1/N Σ r²/2 where |r| < 1, else |r| − 1/2."""

    def loss(self, xp, pred, target):
        r = xp.abs(pred - target)
        return xp.where(r < 1, r * r / 2, r - 0.5).sum() / len(pred)

    def gradients(self, xp, pred, target):
        gradient = self.slope(xp, pred - target) / len(pred)
        return gradient, -gradient

    def slope(self, xp, r):
        return xp.clip(r, -1, 1)


class MarginLossLayer(ArrayLossLayer):
    """E = 1/N Σ max(0, 1 + x_j − x_0), with a kink in each pair of classes."""

    BOTTOMS = ("scores",)

    def loss(self, xp, scores):
        return xp.maximum(0, 1 + scores[:, 1:] - scores[:, :1]).sum() / len(scores)

    def gradients(self, xp, scores):
        inside = (1 + scores[:, 1:] - scores[:, :1] > 0) / xp.float32(len(scores))
        return xp.concatenate([-inside.sum(axis=1, keepdims=True), inside], axis=1)


class LabelledLossLayer(ArrayLossLayer):
    """E = 1/N Σ label · score: it has labels, and does not say of how many classes."""

    BOTTOMS = ("scores", "label")
    CONSTANTS = ("label",)

    def check_shapes(self):
        self.check_same_shape(1, like=0)

    def loss(self, xp, scores, label):
        return (scores * label).sum() / len(scores)

    def gradients(self, xp, scores, label):
        return label / xp.float32(len(scores))


class WrongBendLayer(HuberLossLayer):
    """Its gradient is clipped too late on one side."""

    def slope(self, xp, r):
        return xp.clip(r, -1, 1.05)


class WeightlessHuberLayer(HuberLossLayer):
    """It ignores its loss weight."""

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        super().backward_cpu(1, propagate_down, bottom)


class WrongSideLayer(L1LossLayer):
    """Its gradient has the wrong sign where the residual is small, on the two sides of the kink."""

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        residual = bottom[0].data - bottom[1].data
        super().backward_cpu(loss_weight, propagate_down, bottom)
        for blob, wanted in zip(bottom, propagate_down):
            if wanted:
                blob.diff[np.abs(residual) < 0.1] *= -1


class NoFormulaLayer(LossLayer):
    """A loss whose author forgot the formula."""


class NoReturnLayer(L1LossLayer):
    """A loss that writes its top as Caffe's own examples do, and returns nothing."""

    def forward_cpu(self, bottom, top):
        top[0].data[...] = 5


class NoSumLayer(L1LossLayer):
    """A loss that forgets to sum."""

    def forward_cpu(self, bottom, top):
        return np.abs(bottom[0].data - bottom[1].data)


class GpuCodeLayer(L1LossLayer):
    """A loss with code of its own for GPU mode, which leaves its mark in the top and in the diffs."""

    def forward_gpu(self, bottom, top):
        top[0].data[...] = 123

    def backward_gpu(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 456


class ArrayL1LossLayer(ArrayLossLayer):
    """E = Σ |pred − target| / N, over arrays: two gradients."""

    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("weight",)

    def check_shapes(self):
        self.check_same_shape(1, like=0)
        self.check_weight(2, like=0)

    def loss(self, xp, pred, target, *weight):
        return (xp.abs(pred - target) * self.weight(pred, *weight)).sum() / len(pred)

    def gradients(self, xp, pred, target, *weight):
        gradient = xp.sign(pred - target) * self.weight(pred, *weight) / len(pred)
        yield gradient
        yield -gradient

    def weight(self, pred, weight=None):
        return 1 if weight is None else self.expand_weight(weight, pred)


class NoFormulaArrayLayer(ArrayLossLayer):
    """A loss over arrays whose author forgot the formulas."""


class NoGradientsArrayLayer(ArrayLossLayer):
    """A loss over arrays whose author forgot the gradients."""

    def loss(self, xp, pred, target):
        return (pred - target).sum()


class NoSumArrayLayer(ArrayL1LossLayer):
    """A loss over arrays that forgets to sum."""

    def loss(self, xp, pred, target):
        return pred - target


class OneGradientArrayLayer(ArrayL1LossLayer):
    """A loss over arrays that forgets the target's gradient."""

    def gradients(self, xp, pred, target):
        return next(super().gradients(xp, pred, target))


class UnknownConstantLayer(L1LossLayer):
    """A loss with a constant that is no bottom."""

    CONSTANTS = ("label",)


class NoReturnArrayLayer(ArrayL1LossLayer):
    """A loss over arrays whose gradients are computed and not returned."""

    def gradients(self, xp, pred, target):
        list(super().gradients(xp, pred, target))


class InPlaceLossLayer(ArrayL1LossLayer):
    """Its formula changes its first bottom, as published losses do (``x -= x.max()``)."""

    def loss(self, xp, pred, target):
        pred -= pred.max()
        return super().loss(xp, pred, target)


class InPlaceGradientsLayer(ArrayL1LossLayer):
    """Its gradients are computed in the memory of a bottom."""

    def gradients(self, xp, pred, target):
        gradient = xp.sign(xp.subtract(pred, target, out=pred))
        return gradient, -gradient


class NoisyLossLayer(L1LossLayer):
    """A loss with noise that no seed of Caffe's or NumPy's governs."""

    def forward_cpu(self, bottom, top):
        return super().forward_cpu(bottom, top) + np.random.default_rng().random()


class SeededLossLayer(L1LossLayer):
    """A loss with noise from NumPy's own generator."""

    def forward_cpu(self, bottom, top):
        return super().forward_cpu(bottom, top) + np.random.random()


class WrongBiasLayer(caffe.Layer):
    """Adds a parameter to its bottom, and gives the parameter twice its gradient."""

    def setup(self, bottom, top):
        self.blobs.add_blob(bottom[0].shape[1])

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff
        self.blobs[0].diff[...] += 2 * top[0].diff.sum(axis=0)


class FlippedLossLayer(WeightedSoftmaxLossLayer):
    """The kit's loss with the wrong sign of its gradient."""

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        super().backward_cpu(-loss_weight, propagate_down, bottom)
