"""The loops of the sigmoid cross-entropy loss, compiled by Numba. Each passes over memory once.

The arrays are contiguous vectors of one length: float32, but ``counts`` is bool and says where a target counts.
``counts`` and ``weight`` may be None, for everywhere and for 1.
"""

import numpy as np

from pylayers.losses.float_loops import exp, log1p_of_part
from pylayers.runtime.loops import REORDERED, compiled

# Number of terms that are added in float32. The sums of these runs are added in float64.
_RUN = 256
_one, _zero = np.float32(1), np.float32(0)


@compiled(fastmath=REORDERED)
def total(x, target, positive, counts, weight):
    """Σ w (a softplus(−x) + (1 − t) softplus(x)), a float; `positive` is a."""
    loss = 0.0
    for start in range(0, x.size, _RUN):
        part, run = _zero, slice(start, min(start + _RUN, x.size))
        score, t, a = x[run], target[run], positive[run]
        w, c = None if weight is None else weight[run], None if counts is None else counts[run]
        for j in range(score.size):
            log = log1p_of_part(exp(-abs(score[j])))
            up = score[j] if score[j] > 0 else _zero
            down = _zero if score[j] > 0 else -score[j]
            term = a[j] * (down + log) + (_one - t[j]) * (up + log)
            if w is not None:
                term *= w[j]
            if c is not None:
                term = term if c[j] else _zero
            part += term
        loss += part
    return loss


@compiled(fastmath={"contract"})
def write_gradient(diff, x, target, positive, counts, weight, scale):
    """Writes scale · w · ((1 − t) sigmoid(x) − a sigmoid(−x)) to `diff`, and 0 where the target does not count."""
    scale = np.float32(scale)
    for j in range(diff.size):
        e = exp(-abs(x[j]))
        larger = _one / (_one + e)
        smaller = e * larger
        up, down = (larger, smaller) if x[j] > 0 else (smaller, larger)
        slope = scale * ((_one - target[j]) * up - positive[j] * down)
        if weight is not None:
            slope *= weight[j]
        if counts is not None:
            slope = slope if counts[j] else _zero
        diff[j] = slope
