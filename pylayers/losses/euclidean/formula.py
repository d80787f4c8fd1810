"""The formula of the Euclidean loss: E = 1/Z · Σ w r² / 2 with the residual r = pred − target.

``xp`` is NumPy or CuPy, ``dtype`` the type to compute in. The arrays have one shape, or shapes that broadcast to it.
"""


def half_square_sum(xp, pred, target, weight, dtype):
    """Σ w r² / 2, added in float64. `weight` may be None, for weights of 1."""
    terms = xp.subtract(pred, target, dtype=dtype)
    terms *= terms
    if weight is not None:
        terms *= weight
    return xp.sum(terms, dtype=xp.float64) / 2


def gradient(xp, pred, target, weight, scale, dtype):
    """Returns scale · w r: the gradient with respect to pred where scale is 1/Z; that of target is its negative."""
    result = xp.subtract(pred, target, dtype=dtype)
    if weight is not None:
        result *= weight
    result *= dtype(scale)
    return result
