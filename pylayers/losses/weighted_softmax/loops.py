"""The loops of the softmax loss, compiled by Numba. Each passes over memory once.

`losses` and `write_gradients` work on one tile of positions; `pylayers.runtime.tiles` says what a tile is. Its rows lie
on the outer axis, its columns on the inner axis. The scores x, prob and diff are contiguous float32 arrays
(outer, C, inner). The classes y (int32, negative where ignored), weights (float64, or None), peaks and others (float32,
as in formula.py) have the shape (outer, inner).
"""

import numpy as np

from pylayers.losses.float_loops import exp, exp_minus, is_large, largest, log1p
from pylayers.runtime.loops import REORDERED, compiled
from pylayers.runtime.prefetch import fetch

# Number of terms that are added in float32. The sums of these runs are added in float64.
_RUN = 256
# Number of neighbouring positions that are computed together where there are inner axes. Few enough that their scores
# stay in the cache, and so many that they fill much of a page of memory in each class.
_BLOCK = 1024
# Number of rows of classes that are added in float32, one after the other. Their sums are added in float64.
_GROUP = 32

_one, _zero = np.float32(1), np.float32(0)


def losses(x, y, weight, peak, others, prob, row_start, row_stop, column_start, column_stop):
    """Σ w (log Σ exp(x_j) − x_y) of a tile, a float.

    Args:
        x: the scores.
        y: the classes.
        weight: the weights, or None for all 1.
        peak: overwritten with the largest score of each position, for `write_gradients`.
        others: overwritten with Σ exp(x_j − peak) over all classes except y, for `write_gradients`.
        prob: overwritten with the softmax of the scores; or None.
        row_start: the tile's first row.
        row_stop: one past its last row.
        column_start: the tile's first column.
        column_stop: one past its last column.
    """
    if x.shape[2] == 1:
        return _losses_of_rows(x, y, weight, peak, others, prob, row_start, row_stop)
    return _losses_of_columns(x, y, weight, peak, others, prob, row_start, row_stop, column_start, column_stop)


def write_gradients(x, y, weight, peak, others, scale, diff, row_start, row_stop, column_start, column_stop):
    """Writes scale · w · (softmax − 1_y) of a tile to `diff`, and 0 where ignored.

    `scale` is the loss weight divided by Z. The other arguments are those of `losses`, which has filled `peak` and
    `others`.
    """
    if x.shape[2] == 1:
        _gradients_of_rows(x, y, weight, peak, others, scale, diff, row_start, row_stop)
    else:
        _gradients_of_columns(x, y, weight, peak, others, scale, diff, row_start, row_stop, column_start, column_stop)


@compiled(fastmath=REORDERED)
def _sum_exp(row, peak, ahead):
    total, large = 0.0, is_large(peak)
    for start in range(0, row.size, _RUN):
        part = _zero
        fetch(row, start + ahead, _RUN)
        x = row[start : start + _RUN]
        for j in range(x.size):
            part += exp_minus(x[j], peak, large)
        total += part
    return total


@compiled()
def _write_exp(row, peak, factor, out):
    large = is_large(peak)
    for start in range(0, out.size, _RUN):
        fetch(row, start + row.size, _RUN)
        fetch(out, start + row.size, _RUN)
        x, result = row[start : start + _RUN], out[start : start + _RUN]
        for j in range(result.size):
            result[j] = exp_minus(x[j], peak, large) * factor


@compiled()
def _update_peak(peak, row):
    for j in range(peak.size):
        peak[j] = row[j] if row[j] > peak[j] else peak[j]


@compiled(fastmath={"contract"})
def _add_exp(row, peak, y, this, total, large):
    for j in range(total.size):
        e = exp_minus(row[j], peak[j], large)
        total[j] += _zero if y[j] == this else e


@compiled()
def _write_exps(row, peak, factor, out, ahead, large):
    for start in range(0, out.size, _RUN):
        fetch(row, start + ahead, _RUN)
        fetch(out, start + ahead, _RUN)
        stop = start + _RUN
        run = row[start:stop], peak[start:stop], factor[start:stop], out[start:stop]
        if large:
            _write_exps_of_large_run(*run)
        else:
            _write_exps_of_run(*run)


# Two loops, as the compiler makes no vectors of one with a question in it.
@compiled()
def _write_exps_of_run(row, peak, factor, out):
    for j in range(out.size):
        out[j] = exp_minus(row[j], peak[j], False) * factor[j]


@compiled()
def _write_exps_of_large_run(row, peak, factor, out):
    for j in range(out.size):
        out[j] = exp_minus(row[j], peak[j]) * factor[j]


@compiled(fastmath={"contract"})
def _loss(own_score, others):
    """A position's loss, from x_y − peak and the others, whose small terms are not rounded away."""
    return log1p(others + (exp(own_score) - _one)) - own_score


@compiled(fastmath={"contract"})
def _write_losses(own, peak, others, out):
    for j in range(out.size):
        out[j] = _loss(own[j] - peak[j], others[j])


@compiled(fastmath={"contract"})
def _write_factors(own, peak, others, scale, weight, out):
    for j in range(out.size):
        weighted = scale if weight is None else scale * weight[j]
        out[j] = np.float32(weighted) / (others[j] + exp_minus(own[j], peak[j]))


@compiled()
def _losses_of_rows(x, y, weight, peak, others, prob, row_start, row_stop):
    """Does what `losses` does where there are no inner axes: the classes of a position lie side by side."""
    loss = 0.0
    for i in range(row_start, row_stop):
        row, own = x[i].reshape(-1), max(y[i, 0], np.int32(0))
        peak[i, 0] = largest(row)
        own_score = row[own] - peak[i, 0]
        others[i, 0] = _sum_exp(row[:own], peak[i, 0], row.size) + _sum_exp(row[own + 1 :], peak[i, 0], row.size)
        if y[i, 0] >= 0:
            loss += _loss(own_score, others[i, 0]) * (1.0 if weight is None else weight[i, 0])
        if prob is not None:
            _write_exp(row, peak[i, 0], _one / (others[i, 0] + exp(own_score)), prob[i].reshape(-1))
    return loss


@compiled()
def _gradients_of_rows(x, y, weight, peak, others, scale, diff, row_start, row_stop):
    for i in range(row_start, row_stop):
        row, result, own = x[i].reshape(-1), diff[i].reshape(-1), y[i, 0]
        if own < 0:
            for j in range(result.size):
                result[j] = _zero
            continue
        weighted = scale if weight is None else scale * weight[i, 0]
        factor = np.float32(weighted / (others[i, 0] + exp_minus(row[own], peak[i, 0])))
        _write_exp(row, peak[i, 0], factor, result)
        result[own] = -others[i, 0] * factor  # p_y − 1 = −others / (others + exp_y)


@compiled()
def _losses_of_columns(x, y, weight, peak, others, prob, row_start, row_stop, column_start, column_stop):
    """Does what `losses` does where there are inner axes: vectors run along them, and over several classes if short."""
    loss = 0.0
    peaks, parts, values = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    totals, own_in_group = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.int32)
    for i in range(row_start, row_stop):
        for start in range(column_start, column_stop, _BLOCK):
            width = min(_BLOCK, column_stop - start)
            classes = _classes_in_row(x, width)
            row_peak, part, value = peaks[: classes * width], parts[: classes * width], values[: classes * width]
            _find_peaks(x, i, start, width, classes, row_peak)
            own, block_others = y[i, start : start + width], others[i, start : start + width]
            for k in range(classes):
                for j in range(width):
                    own_in_group[k * width + j] = own[j] - k  # the class that begins the row in which y is the k-th
            _add_columns(x, i, start, width, classes, row_peak, own_in_group, part, totals[: classes * width])
            for j in range(width):
                peak[i, start + j], block_others[j] = row_peak[j], totals[j]

            _gather(x, i, start, own, part)
            _write_losses(part, row_peak, block_others, value[:width])
            for j in range(width):
                if own[j] >= 0:
                    loss += value[j] * (1.0 if weight is None else weight[i, start + j])
            if prob is not None:
                for j in range(width):
                    value[j] = _one / (block_others[j] + (_zero if own[j] < 0 else exp_minus(part[j], row_peak[j])))
                _repeat(value, width)
                _write_columns(x, i, start, width, classes, row_peak, value, prob)
    return loss


@compiled()
def _gradients_of_columns(x, y, weight, peak, others, scale, diff, row_start, row_stop, column_start, column_stop):
    peaks, factors, owns = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for i in range(row_start, row_stop):
        for start in range(column_start, column_stop, _BLOCK):
            width = min(_BLOCK, column_stop - start)
            classes = _classes_in_row(x, width)
            row_peak, factor = peaks[: classes * width], factors[: classes * width]
            block_others, own = others[i, start : start + width], y[i, start : start + width]
            for j in range(width):
                row_peak[j] = peak[i, start + j]
            _repeat(row_peak, width)
            _gather(x, i, start, own, owns)
            of_block = None if weight is None else weight[i, start : start + width]
            _write_factors(owns, row_peak, block_others, scale, of_block, factor[:width])
            _repeat(factor, width)
            _write_columns(x, i, start, width, classes, row_peak, factor, diff)
            for j in range(width):
                if own[j] >= 0:
                    diff[i, own[j], start + j] = -block_others[j] * factor[j]
                else:
                    for c in range(x.shape[1]):
                        diff[i, c, start + j] = _zero


@compiled()
def _classes_in_row(x, width):
    """Number of classes handled as one contiguous row; above 1 only where the block spans the whole inner axis."""
    return min(x.shape[1], max(1, _BLOCK // width)) if width == x.shape[2] else 1


@compiled()
def _row(x, i, c, classes, start, width):
    """The scores of up to `classes` classes from `c` on, for the columns from `start` on."""
    begin = c * x.shape[2] + start
    return x[i].reshape(-1)[begin : begin + min(classes, x.shape[1] - c) * width]


@compiled()
def _repeat(values, width):
    """Fills an array with copies of its first `width` numbers."""
    for j in range(width, values.size):
        values[j] = values[j - width]


@compiled()
def _find_peaks(x, i, start, width, classes, peak):
    """Writes the largest score of each column to `peak`, repeated for each class of a row."""
    for j in range(peak.size):
        peak[j] = -np.inf
    for c in range(0, x.shape[1], classes):
        row = _row(x, i, c, classes, start, width)
        _update_peak(peak[: row.size], row)
    for k in range(1, classes):
        _update_peak(peak[:width], peak[k * width : (k + 1) * width])
    _repeat(peak, width)


@compiled()
def _add_columns(x, i, start, width, classes, peak, own_in_group, part, total):
    """Writes Σ exp(x − peak) over all classes but y to the first `width` of `total`; `part` is working memory."""
    for j in range(total.size):
        total[j], part[j] = 0.0, _zero
    large = _any_large(peak)
    for c in range(0, x.shape[1], classes):
        row = _row(x, i, c, classes, start, width)
        _add_exp(row, peak, own_in_group, np.int32(c), part[: row.size], large)
        if c // classes % _GROUP == _GROUP - 1:
            _flush_partial_sums(part, total)
    _flush_partial_sums(part, total)
    for j in range(width, total.size):
        total[j % width] += total[j]


@compiled()
def _flush_partial_sums(part, total):
    for j in range(part.size):
        total[j] += part[j]
        part[j] = _zero


@compiled()
def _write_columns(x, i, start, width, classes, peak, factor, out):
    large = _any_large(peak)
    for c in range(0, x.shape[1], classes):
        row = _row(x, i, c, classes, start, width)
        _write_exps(row, peak, factor, _row(out, i, c, classes, start, width), classes * x.shape[2], large)


@compiled()
def _any_large(peak):
    found = False
    for j in range(peak.size):
        found |= is_large(peak[j])
    return found


@compiled()
def _gather(x, i, start, own, out):
    """Copies each position's own score x_y to `out`; that of class 0 where ignored."""
    for j in range(own.size):
        out[j] = x[i, max(own[j], np.int32(0)), start + j]
