"""The loops of the channel-summed Euclidean loss, compiled by Numba. Each passes over memory once.

Each works on one tile of sums; `pylayers.runtime.tiles` says what a tile is. Its rows lie on the outer axis, its
columns on the inner axis. ``pred``, ``target`` and ``diff`` are contiguous float32 arrays (outer, channels, inner);
``residual`` is float32 (outer, inner).
"""

import numpy as np

from pylayers.runtime.loops import REORDERED, compiled

# Number of sums that are computed together, so that their terms are read in long rows.
_BLOCK = 512


@compiled()
def write_residuals(pred, target, residual, row_start, row_stop, column_start, column_stop):
    """Writes s(pred) − s(target) of a tile to `residual`; returns half the sum of its squares, added in float64."""
    total = 0.0
    sums = np.empty(_BLOCK)
    for i in range(row_start, row_stop):
        if pred.shape[2] == 1:
            difference = _sum(pred[i].reshape(-1)) - _sum(target[i].reshape(-1))
            residual[i, 0] = difference
            total += difference * difference
            continue
        for start in range(column_start, column_stop, _BLOCK):
            stop = min(start + _BLOCK, column_stop)
            differences = sums[: stop - start]
            for j in range(differences.size):
                differences[j] = 0.0
            for c in range(pred.shape[1]):
                _add(pred[i, c, start:stop], 1.0, differences)
            for c in range(target.shape[1]):
                _add(target[i, c, start:stop], -1.0, differences)
            total += _copy_and_square(differences, residual[i, start:stop])
    return total / 2


@compiled(fastmath=REORDERED)
def _sum(row):
    total = 0.0
    for j in range(row.size):
        total += row[j]
    return total


@compiled()
def _add(row, factor, sums):
    for j in range(sums.size):
        sums[j] += factor * row[j]


@compiled(fastmath=REORDERED)
def _copy_and_square(differences, residual):
    """Copies numbers to `residual`, and returns the sum of their squares."""
    total = 0.0
    for j in range(residual.size):
        residual[j] = differences[j]
        total += differences[j] * differences[j]
    return total


@compiled()
def broadcast_residual(residual, scale, diff, row_start, row_stop, column_start, column_stop):
    """Writes scale · r to each element of each sum in a tile. `scale` is rounded to float32, as in Caffe."""
    scale = np.float32(scale)
    for i in range(row_start, row_stop):
        if diff.shape[2] == 1:
            row, value = diff[i].reshape(-1), residual[i, 0] * scale
            for j in range(row.size):
                row[j] = value
            continue
        for c in range(diff.shape[1]):
            values, row = residual[i, column_start:column_stop], diff[i, c, column_start:column_stop]
            for j in range(row.size):
                row[j] = values[j] * scale
