"""The formula of the focal loss: (1 − p)^γ ℓ with the cross-entropy ℓ = −log p, p being the probability of the label.

``xp`` is NumPy or CuPy. q is 1 − p, found without the subtraction, so that it keeps its digits where p is near 1. All
is float64, as a power of q has γ times the error of q.
"""

from pylayers.losses.sigmoid_cross_entropy.formula import sigmoids
from pylayers.losses.weighted_softmax import formula as softmax


def modulate(xp, entropy, p, q, gamma):
    """Returns q^γ ℓ, and its derivative with respect to ℓ, by which the gradient of ℓ is multiplied.

    That is q^γ + γ q^(γ−1) p ℓ, as dq/dℓ = p. Where p goes to 1, q^(γ−1) may have no bound, but ℓ/q goes to 1. So it is
    written as q^γ (1 + γ p ℓ/q).
    """
    power = q**gamma
    ratio = xp.where(q > 0, entropy / xp.where(q > 0, q, 1), 1)
    return power * entropy, power * (1 + gamma * p * ratio)


def of_sigmoid(xp, scores, y):
    """ℓ, p and q of each score for its class y, 0 or 1: p is sigmoid(x), or sigmoid(−x) where y is 0."""
    x = xp.where(y == 1, scores, -scores)
    larger, smaller = sigmoids(xp, x)
    p, q = xp.where(x >= 0, larger, smaller), xp.where(x >= 0, smaller, larger)
    return xp.maximum(-x, 0) + xp.log1p(xp.exp(-xp.abs(x))), p, q


def of_softmax(xp, scores, y):
    """ℓ, p and q of each position, and the peak and the others, as the softmax loss has them."""
    entropy, peak, others = softmax.losses(xp, scores, y, scores.dtype.type)
    own = xp.take_along_axis(scores, xp.maximum(y, 0)[:, None].astype(xp.int64), axis=1)[:, 0]
    own = xp.exp(own - peak)
    return entropy, own / (others + own), others / (others + own), peak, others
