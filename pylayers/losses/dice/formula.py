"""The formula of the Dice loss, as A/B for each class: 1 − D = 1 − (2 Σ p t + s)/(Σ p^e + Σ t^e + s).

``xp`` is NumPy or CuPy. With t of 0 or 1, the numerator of 1 − D is A = Σ (p − t)² for e = 2, and A = Σ (p − t)(1 − 2t)
for e = 1. The residual r = p − t is found without the subtraction where p goes to 1. So a small loss keeps its digits.

Scores, p, r and t have the shape (items, rows, C, inner). Classes y have (items, rows, inner); where y is negative the
position does not count, and p, r and t are 0. All is float64: the gradient is a sum of differences that nearly cancel.
"""

from pylayers.losses.sigmoid_cross_entropy.formula import sigmoids
from pylayers.losses.weighted_softmax import formula as softmax

AXES = (1, 3)  # a sum for each class of each item, or of the whole batch


def targets(xp, y, classes):
    """Where t is 1, as bools: where y is the class; with one channel, where y is 1."""
    return (y[:, :, None] == xp.arange(classes)[:, None]) if classes > 1 else (y == 1)[:, :, None]


def probabilities(xp, scores, y, t, activation):
    """Returns p and r of each score."""
    counts = (y >= 0)[:, :, None]
    if activation == "SOFTMAX":
        flat, own = scores.reshape(-1, *scores.shape[2:]), y.reshape(-1, y.shape[-1])
        dtype = scores.dtype.type
        _, peak, others = softmax.losses(xp, flat, own, dtype)
        p = softmax.probabilities(xp, flat, own, peak, others, dtype).reshape(scores.shape)
        r = softmax.gradient(xp, flat, own, peak, others, 1, dtype).reshape(scores.shape)
    elif activation == "SIGMOID":
        p, q = complements(xp, scores)
        r = xp.where(t, -q, p)
    else:
        p, r = scores, scores - t
    return xp.where(counts, p, 0), xp.where(counts, r, 0)


def complements(xp, scores):
    """sigmoid(x) and 1 − sigmoid(x), both with all their digits."""
    larger, smaller = sigmoids(xp, scores)
    return xp.where(scores > 0, larger, smaller), xp.where(scores > 0, smaller, larger)


def sums(xp, p, r, t, exponent):
    """A, Σ p t, and Σ p^e + Σ t, of each class: (3, items, 1, C, 1)."""
    above = r * r if exponent == 2 else xp.where(t, -r, r)
    power = p * p if exponent == 2 else p
    return xp.stack([xp.sum(each, axis=AXES, keepdims=True) for each in (above, xp.where(t, p, 0), power + t)])


def fractions(xp, above, overlap, below, smooth):
    """1 − D, D and B of each class, from the sums. Where B is 0 the first two are 0, and B infinite."""
    below = below + smooth
    below = xp.where(below == 0, xp.inf, below)
    return above / below, (2 * overlap + smooth) / below, below


def slopes(xp, p, r, t, exponent, lost, kept, below):
    """The derivative of 1 − D with respect to p, with 1 − D, D and B from `fractions`.

    It is 2 (r − (1 − D) p) / B for e = 2. Where t is 0 that is 2 D p / B, which is 0 where D is.
    """
    if exponent == 2:
        return 2 * xp.where(t, r - lost * p, kept * p) / below
    return xp.where(t, -1 - lost, kept) / below


def through(xp, slope, scores, p, activation):
    """The derivative with respect to the scores, from that with respect to p."""
    if activation == "NONE":
        return slope
    if activation == "SIGMOID":
        return slope * p * complements(xp, scores)[1]
    # p_j Σ_k p_k (g_j − g_k), written so that the largest p, which is rounded most, meets a difference of 0.
    largest = xp.argmax(scores, axis=2)[:, :, None]
    slope = slope - xp.take_along_axis(slope, largest, axis=2)
    return p * (slope - xp.sum(p * slope, axis=2, keepdims=True))
