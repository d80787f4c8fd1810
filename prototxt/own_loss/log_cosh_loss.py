"""Log-cosh loss: like the Euclidean loss near 0, like the L1 loss far from it, and smooth in between."""

import math

from pylayers.array_layer import ArrayLossLayer
from pylayers.params import Number


class LogCoshLossLayer(ArrayLossLayer):
    """E = 1/N · Σ s² log cosh x with x = (pred − target) / s, where s is the option scale."""

    OPTIONS = {"scale": Number(1.0, above=0)}

    def check_shapes(self):
        self.check_same_shape(1, like=0)

    def prepare(self, xp, pred, target):
        return len(pred), [(pred - target) / self.options.scale]

    def loss(self, xp, x):
        size = xp.abs(x)
        near = xp.log1p(2 * xp.sinh(xp.minimum(size, 1) / 2) ** 2)
        far = size + xp.log1p(xp.exp(-2 * size)) - math.log(2)
        return self.options.scale**2 * xp.sum(xp.where(size < 1, near, far), dtype=xp.float64)

    def gradients(self, xp, x):
        gradient = self.options.scale * xp.tanh(x)
        return gradient, -gradient
