"""The formula of the channel-summed Euclidean loss: E = 1/Z · Σ r² / 2 with r = s(pred) − s(target).

s sums a blob of shape (outer, channels, inner) over its channels. ``xp`` is NumPy or CuPy, ``dtype`` the type that r is
given in; all sums are taken in float64.
"""


def residuals(xp, pred, target, dtype):
    """Returns r = s(pred) − s(target), of shape (outer, inner)."""
    sums = [xp.sum(blob, axis=1, dtype=xp.float64) for blob in (pred, target)]
    return xp.subtract(*sums).astype(dtype, copy=False)


def half_square_sum(xp, residual):
    """Σ r² / 2."""
    return xp.sum(xp.square(residual, dtype=xp.float64)) / 2


def gradient(xp, residual, scale, channels, dtype):
    """Returns scale · r for every channel of the sum: the gradient with respect to pred where scale is 1/Z.

    The derivative of a sum with respect to each of its terms is 1, so each channel gets the residual of its sum.
    """
    scaled = residual * dtype(scale)
    return xp.broadcast_to(scaled[:, None], (scaled.shape[0], channels, scaled.shape[1]))
