"""The loops of the Dice loss, compiled by Numba. They compute what ``formula.py`` says.

They work on one tile of positions; `pylayers.runtime.tiles` says what a tile is. The scores x and diff are float32
(outer, C, inner), the classes y int32 (outer, inner), negative where a position does not count. With one channel, t is
1 where y is 1. Row i belongs to the item i // ``rows``.
"""

import numpy as np

from pylayers.losses.float_loops import exp, exp64, largest
from pylayers.runtime.loops import REORDERED, compiled

# Numbers that are computed together: with SOFTMAX the classes of some neighbouring positions, else neighbouring scores.
_SIZE = 4096
_RUN = 256
_one, _zero = np.float32(1), np.float32(0)


@compiled()
def _own(classes, c):
    """The class y where t of channel c is 1."""
    return np.int32(1) if classes == 1 else np.int32(c)


# activation: SIGMOID and NONE. Each score is for itself, in float32.


@compiled(fastmath={"contract"})
def _probability(x, sigmoid):
    """Returns p and 1 − p."""
    if not sigmoid:
        return x, _one - x
    e = exp(-abs(x))
    larger = _one / (_one + e)
    return larger if x > 0 else e * larger, e * larger if x > 0 else larger


@compiled(fastmath=REORDERED)
def _sum_scores(x, y, own, sigmoid, square):
    """A, Σ p t, and Σ p^e + t, of a run of scores."""
    above, overlap, below = _zero, _zero, _zero
    for j in range(x.size):
        p, q = _probability(x[j], sigmoid)
        r = -q if y[j] == own else p
        sign = -r if y[j] == own else r
        above += (r * r if square else sign) if y[j] >= 0 else _zero
        overlap += p if y[j] == own else _zero
        power = p * p if square else p
        below += (power + _one if y[j] == own else power) if y[j] >= 0 else _zero
    return above, overlap, below


@compiled()
def add_scores(x, y, sigmoid, square, sums, first, rows, row_start, row_stop, column_start, column_stop):
    """Adds A, Σ p t, and Σ p^e + Σ t, to `sums`, float64 (3, items, C) from the item `first` on."""
    for i in range(row_start, row_stop):
        for c in range(x.shape[1]):
            own = _own(x.shape[1], c)
            for start in range(column_start, column_stop, _RUN):
                run = slice(start, min(start + _RUN, column_stop))
                found = _sum_scores(x[i, c, run], y[i, run], own, sigmoid, square)
                for k in range(3):
                    sums[k, i // rows - first, c] += found[k]


@compiled(fastmath={"contract"})
def _write_slopes(x, y, own, sigmoid, square, lost, kept, scale, out):
    """Writes the gradient of a run of scores; `lost` is 1 − D, `kept` is D."""
    two_scale, lost32, kept32 = np.float32(2 * scale), np.float32(lost), np.float32(kept)
    here, elsewhere = np.float32(scale * (-1 - lost)), np.float32(scale * kept)
    for j in range(x.size):
        p, q = _probability(x[j], sigmoid)
        curve = -(q + lost32 * p) if y[j] == own else kept32 * p
        line = here if y[j] == own else elsewhere
        slope = two_scale * curve if square else line
        if sigmoid:
            slope *= p * q
        out[j] = slope if y[j] >= 0 else _zero


@compiled()
def write_scores(
    x, y, sigmoid, square, losts, kepts, scales, diff, rows, row_start, row_stop, column_start, column_stop
):
    """Writes the gradient; 1 − D, D, and what it is divided by, are float64 (items, C)."""
    for i in range(row_start, row_stop):
        for c in range(x.shape[1]):
            own, item = _own(x.shape[1], c), i // rows
            numbers = losts[item, c], kepts[item, c], scales[item, c]
            for start in range(column_start, column_stop, _RUN):
                run = slice(start, min(start + _RUN, column_stop))
                _write_slopes(x[i, c, run], y[i, run], own, sigmoid, square, *numbers, diff[i, c, run])


# activation: SOFTMAX. A block has neighbouring positions of a row, in float64: the number of class c and of the j-th
# position stands at c · width + j.


@compiled()
def _width(x):
    """The largest number of positions in a block."""
    return min(x.shape[2], max(16, _SIZE // x.shape[1]))


@compiled()
def _exps(x, i, start, peak, e):
    """Writes exp(x − peak) of a block to `e`, and the peaks."""
    if x.shape[2] == 1:
        row = x[i].reshape(-1)
        peak[0] = largest(row)
        for c in range(row.size):
            e[c] = exp64(row[c] - peak[0])
        return
    for j in range(peak.size):
        peak[j] = x[i, 0, start + j]
    for c in range(1, x.shape[1]):
        row = x[i, c, start : start + peak.size]
        for j in range(peak.size):
            peak[j] = row[j] if row[j] > peak[j] else peak[j]
    for c in range(x.shape[1]):
        row, out = x[i, c, start : start + peak.size], e[c * peak.size : (c + 1) * peak.size]
        for j in range(peak.size):
            out[j] = exp64(row[j] - peak[j])


@compiled()
def _probabilities(x, y, i, start, e, rest, factor):
    """Writes p of a block to `e`, and to `rest` what is left to 1 where the class is y."""
    width = rest.size
    _exps(x, i, start, factor, e)
    for j in range(width):
        rest[j] = 0.0
    own = y[i, start : start + width]
    for c in range(x.shape[1]):
        part = e[c * width : (c + 1) * width]
        for j in range(width):
            rest[j] += 0.0 if own[j] == c else part[j]
    for j in range(width):
        factor[j] = 1 / (rest[j] + (e[own[j] * width + j] if own[j] >= 0 else 0.0))
        rest[j] *= factor[j]
    for c in range(x.shape[1]):
        part = e[c * width : (c + 1) * width]
        for j in range(width):
            part[j] *= factor[j]


@compiled(fastmath=REORDERED)
def _sum_class(p, rest, y, c, square):
    """A, Σ p t, and Σ p^e + t, of the positions of a block for a class."""
    above, overlap, below = 0.0, 0.0, 0.0
    for j in range(p.size):
        r = rest[j] if y[j] == c else p[j]
        above += (r * r if square else r) if y[j] >= 0 else 0.0
        overlap += p[j] if y[j] == c else 0.0
        power = p[j] * p[j] if square else p[j]
        below += (power + 1 if y[j] == c else power) if y[j] >= 0 else 0.0
    return above, overlap, below


@compiled()
def add_classes(x, y, square, sums, first, rows, row_start, row_stop, column_start, column_stop):
    """Does for SOFTMAX what `add_scores` does."""
    classes, most = x.shape[1], _width(x)
    e, rests, factors = np.empty(classes * most), np.empty(most), np.empty(most)
    for i in range(row_start, row_stop):
        for start in range(column_start, column_stop, most):
            width = min(most, column_stop - start)
            rest, own = rests[:width], y[i, start : start + width]
            _probabilities(x, y, i, start, e[: classes * width], rest, factors[:width])
            for c in range(classes):
                found = _sum_class(e[c * width : (c + 1) * width], rest, own, np.int32(c), square)
                for k in range(3):
                    sums[k, i // rows - first, c] += found[k]


@compiled(fastmath={"contract"})
def _write_class_slopes(p, rest, y, c, square, lost, kept, scale, out):
    """Writes the derivative with respect to p, for a class; `lost` is 1 − D, `kept` is D."""
    for j in range(p.size):
        if square:
            out[j] = 2 * scale * (-rest[j] - lost * p[j] if y[j] == c else kept * p[j])
        else:
            out[j] = scale * (-1 - lost if y[j] == c else kept)


@compiled(fastmath={"contract"})
def _write_through(x, p, g, best, total, i, start, y, diff):
    """Writes p (g − Σ p g). From each g that of the largest p is taken, since that p is rounded most."""
    classes, width = x.shape[1], best.size
    for j in range(width):
        best[j], total[j] = 0.0, 0.0
    for c in range(classes):
        row, slope = p[c * width : (c + 1) * width], g[c * width : (c + 1) * width]
        for j in range(width):
            total[j] = slope[j] if row[j] > best[j] else total[j]
        for j in range(width):
            best[j] = max(row[j], best[j])
    for j in range(width):
        best[j], total[j] = total[j], 0.0
    for c in range(classes):
        row, slope = p[c * width : (c + 1) * width], g[c * width : (c + 1) * width]
        for j in range(width):
            slope[j] -= best[j]
        for j in range(width):
            total[j] += row[j] * slope[j]
    for c in range(classes):
        row, slope = p[c * width : (c + 1) * width], g[c * width : (c + 1) * width]
        out = diff[i, c, start : start + width]
        for j in range(width):
            out[j] = row[j] * (slope[j] - total[j])
    for j in range(width):
        if y[j] < 0:
            for c in range(classes):
                diff[i, c, start + j] = _zero


@compiled()
def write_classes(x, y, square, losts, kepts, scales, diff, rows, row_start, row_stop, column_start, column_stop):
    """Does for SOFTMAX what `write_scores` does."""
    classes, most = x.shape[1], _width(x)
    e, g, rests, factors = np.empty(classes * most), np.empty(classes * most), np.empty(most), np.empty(most)
    for i in range(row_start, row_stop):
        for start in range(column_start, column_stop, most):
            width = min(most, column_stop - start)
            rest, factor, own = rests[:width], factors[:width], y[i, start : start + width]
            _probabilities(x, y, i, start, e[: classes * width], rest, factor)
            for c in range(classes):
                run = slice(c * width, (c + 1) * width)
                numbers = losts[i // rows, c], kepts[i // rows, c], scales[i // rows, c]
                _write_class_slopes(e[run], rest, own, np.int32(c), square, *numbers, g[run])
            _write_through(x, e, g, rest, factor, i, start, own, diff)
