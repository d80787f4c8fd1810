"""The loops of the smooth L1 loss and of the L1 loss, compiled by Numba. Each passes over memory once.

The arrays are contiguous float32 vectors of one length; weights may be None, for weights of 1. ``beta`` and ``square``
are β and σ² of formula.py.
"""

import numpy as np

from pylayers.runtime.loops import REORDERED, compiled

# Number of terms that are added in float32. The sums of these runs are added in float64.
_RUN = 256
_half = np.float32(0.5)


@compiled(fastmath=REORDERED)
def total(pred, target, inside, outside, beta, square):
    """Σ w_out f(w_in (pred − target)), a float, with a relative error of about 1e-7."""
    beta, half_square = np.float32(beta), np.float32(square) * _half
    loss = 0.0
    for start in range(0, pred.size, _RUN):
        part, run = np.float32(0), slice(start, min(start + _RUN, pred.size))
        a, b = pred[run], target[run]
        w, v = None if inside is None else inside[run], None if outside is None else outside[run]
        for j in range(a.size):
            x = a[j] - b[j] if w is None else w[j] * (a[j] - b[j])
            size = abs(x)
            term = x * x * half_square if size < beta else size - beta * _half
            part += term if v is None else v[j] * term
        loss += part
    return loss


@compiled()
def write_gradient(diff, pred, target, inside, outside, beta, square, scale):
    """Writes scale · w_out w_in f′(w_in (pred − target)) to `diff`."""
    beta, square, scale = np.float32(beta), np.float32(square), np.float32(scale)
    one = np.float32(1)
    for j in range(diff.size):
        x = pred[j] - target[j] if inside is None else inside[j] * (pred[j] - target[j])
        slope = one if x > 0 else (-one if x < 0 else x)
        slope = x * square if abs(x) < beta else slope
        if inside is not None:
            slope *= inside[j]
        diff[j] = scale * slope if outside is None else scale * outside[j] * slope
