"""Focal loss (Lin et al. 2017, arXiv 1708.02002) for scores of any shape and labels of 0 and 1."""

from pylayers.array_layer import ArrayLossLayer
from pylayers.params import Number


class FocalLossLayer(ArrayLossLayer):
    """E = −1/N · Σ (1 − p)^γ log p, where p is the probability that sigmoid(scores) gives the label."""

    BOTTOMS = ("scores", "label")
    CONSTANTS = ("label",)
    OPTIONS = {"gamma": Number(2.0, minimum=0)}

    def check_shapes(self):
        self.check_same_shape(1, like=0)

    def loss(self, xp, scores, label):
        sign = 2 * label - 1
        log_p = -xp.logaddexp(0, -sign * scores)
        return -xp.sum((1 - xp.exp(log_p)) ** self.options.gamma * log_p, dtype=xp.float64) / len(scores)

    def gradients(self, xp, scores, label):
        gamma, sign = self.options.gamma, 2 * label - 1
        log_p = -xp.logaddexp(0, -sign * scores)
        p = xp.exp(log_p)
        return sign * (1 - p) ** gamma * (gamma * p * log_p + p - 1) / len(scores)
