"""The formula of the softmax loss: ℓ = log Σ exp(x_j) − x_y for each position, and its gradient p − 1_y.

Scores x have the shape (outer, C, inner), classes y and all results for a position (outer, inner). ``xp`` is NumPy or
CuPy, ``dtype`` the type to compute in. Where y is negative the position is ignored: its loss means nothing, and its
gradient is 0.

The gradient needs two numbers of each position beside its scores: the peak, which is the largest score, and the others,
Σ exp(x_j − peak) over all classes except y. The label's own term is left out of that sum. It is often 1, and the other
terms, which are the loss, would be rounded away beside it.
"""


def losses(xp, scores, y, dtype):
    """Returns ℓ of each position, its peak, and its others."""
    own = _own(xp, y)
    peak = scores.max(axis=1)
    shifted = xp.subtract(scores, peak[:, None], dtype=dtype)
    own_score = shifted[own]
    exp = xp.exp(shifted, out=shifted)
    exp[own] = 0
    others = xp.sum(exp, axis=1, dtype=xp.float64).astype(dtype)
    # exp(own_score) − 1 is exact, and 0 where the label's score is the largest.
    return xp.log1p(others + (xp.exp(own_score) - 1)) - own_score, peak, others


def probabilities(xp, scores, y, peak, others, dtype):
    """Returns p, the softmax of the scores, from what `losses` found."""
    exp = xp.exp(xp.subtract(scores, peak[:, None], dtype=dtype))
    exp /= (others + exp[_own(xp, y)])[:, None]
    return exp


def gradient(xp, scores, y, peak, others, scale, dtype):
    """Returns scale · (p − 1_y), from what `losses` found; `scale` is a number, or one for each position."""
    own = _own(xp, y)
    result = xp.subtract(scores, peak[:, None], dtype=dtype)
    xp.exp(result, out=result)
    factor = (scale / (others + result[own])).astype(dtype)
    result *= factor[:, None]
    result[own] = -others * factor  # p_y − 1 = −others / (others + exp_y)
    ignored = y < 0
    if xp.__name__ == "numpy" and not ignored.any():  # on the GPU the question would wait for its answer
        return result
    return xp.where(ignored[:, None], dtype(0), result)


def _own(xp, y):
    """The index of each position's own class y in an array (outer, C, inner); of class 0 where ignored."""
    outer, inner = y.shape
    return xp.arange(outer)[:, None], xp.maximum(y, 0), xp.arange(inner)
