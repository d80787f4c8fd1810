"""The loops of the triplet loss, compiled by Numba. The blobs are contiguous float32 matrices (N, D)."""

import numpy as np

from pylayers.runtime.loops import REORDERED, compiled


@compiled(fastmath=REORDERED)
def _distance_less(anchor, near, far):
    """‖anchor − near‖² − ‖anchor − far‖², as Σ (far − near) (2 anchor − near − far)."""
    total = 0.0
    for j in range(anchor.size):
        a, p, n = np.float64(anchor[j]), np.float64(near[j]), np.float64(far[j])
        total += (n - p) * ((a - p) + (a - n))
    return total


@compiled()
def write_terms(terms, anchor, positive, negative, row_start, row_stop):
    """Writes ‖anchor − positive‖² − ‖anchor − negative‖² of some rows."""
    for i in range(row_start, row_stop):
        terms[i] = _distance_less(anchor[i], positive[i], negative[i])


@compiled()
def write_differences(diff, first, second, weight, scale, row_start, row_stop):
    """Writes scale · weight · (first − second) of some rows; `weight` is float64 (N,)."""
    for i in range(row_start, row_stop):
        factor = np.float32(scale * weight[i])
        x, y, out = first[i], second[i], diff[i]
        for j in range(out.size):
            out[j] = factor * (x[j] - y[j])
