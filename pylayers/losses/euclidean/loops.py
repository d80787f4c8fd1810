"""The loops of the Euclidean loss, compiled by Numba. Each passes over memory once.

Each works on one tile of the matrices; `pylayers.runtime.tiles` says what a tile is. ``pred``, ``target`` and ``diff``
are contiguous float32 matrices. ``weight`` is such a matrix, or a vector with one number for each row, or None.
"""

import numpy as np

from pylayers.runtime.loops import REORDERED, compiled

# Number of terms that are added in float32. The sums of these runs are added in float64.
_RUN = 256


@compiled(fastmath=REORDERED)
def half_square_sum(pred, target, weight, row_start, row_stop, column_start, column_stop):
    """Σ w (pred − target)² / 2 of a tile, with a relative error of about 1e-7."""
    total = 0.0
    for row in range(row_start, row_stop):
        for start in range(column_start, column_stop, _RUN):
            stop = min(start + _RUN, column_stop)
            x, y = pred[row, start:stop], target[row, start:stop]
            part = np.float32(0)
            if weight is None or weight.ndim == 1:
                for j in range(x.size):
                    part += (x[j] - y[j]) * (x[j] - y[j])
            else:
                w = weight[row, start:stop]
                for j in range(x.size):
                    part += w[j] * (x[j] - y[j]) * (x[j] - y[j])
            total += part if weight is None or weight.ndim == 2 else weight[row] * part
    return total / 2


@compiled()
def write_gradient(pred, target, weight, scale, diff, row_start, row_stop, column_start, column_stop):
    """Writes scale · w (pred − target) to a tile of `diff`. `scale` is rounded to float32, as in Caffe."""
    scale = np.float32(scale)
    for row in range(row_start, row_stop):
        x, y = pred[row, column_start:column_stop], target[row, column_start:column_stop]
        out = diff[row, column_start:column_stop]
        if weight is None:
            for j in range(out.size):
                out[j] = (x[j] - y[j]) * scale
        elif weight.ndim == 1:
            w = weight[row]
            for j in range(out.size):
                out[j] = (x[j] - y[j]) * w * scale
        else:
            v = weight[row, column_start:column_stop]
            for j in range(out.size):
                out[j] = (x[j] - y[j]) * v[j] * scale
