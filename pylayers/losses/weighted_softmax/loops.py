"""The loops of the softmax loss, compiled by Numba. Each passes over memory once.

`losses` and `write_gradients` work on one tile of positions; `pylayers.runtime.tiles` says what a tile is. Its rows lie
on the outer axis, its columns on the inner axis. The scores x, prob and diff are contiguous float32 arrays
(outer, C, inner). The classes y (int32, negative where ignored), weights (float64, or None), peaks and others (float32,
as in formula.py) have the shape (outer, inner).
"""

import numpy as np

from pylayers.runtime.loops import REORDERED, compiled

# Number of terms that are added in float32. The sums of these runs are added in float64.
_RUN = 256
# Number of neighbouring positions that are computed together where there are inner axes. Few enough that their scores
# stay in the cache, and so many that they fill much of a page of memory in each class.
_BLOCK = 512
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


@compiled(fastmath={"contract"})
def _exp(x):
    """exp(x) for x ≤ 0, with a relative error of at most 2e-7, and 0 below −87; NaN stays NaN.

    It is 2ⁿ · exp(r) with r = x − n log 2. The polynomial is the best of its degree for r from −log(2)/2 to log(2)/2.
    The compiler can vectorise this code, but not a call of the C library.
    """
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693359375) - n * np.float32(-2.12194440e-4)
    p = np.float32(8.3125205711e-3)
    p = p * r + np.float32(4.1890155524e-2)
    p = p * r + np.float32(1.6667114198e-1)
    p = p * r + np.float32(4.9999231100e-1)
    p = p * (r * r) + r + _one
    e = np.int32(np.float32(p).view(np.int32) + (np.int32(n) << np.int32(23))).view(np.float32)
    return _zero if x < np.float32(-87) else e


@compiled()
def _largest(row):
    """The largest number of a row of float32; NaN where the row has a NaN without a sign.

    Compares bit patterns as int32, with the low 31 bits of negative numbers flipped so that the order is kept: LLVM
    vectorises an integer maximum, not a float one.
    """
    bits = row.view(np.int32)
    flipped = np.int32(0x7FFFFFFF)
    largest = bits[0] ^ ((bits[0] >> np.int32(31)) & flipped)
    for j in range(bits.size):
        largest = max(largest, bits[j] ^ ((bits[j] >> np.int32(31)) & flipped))
    return np.int32(largest ^ ((largest >> np.int32(31)) & flipped)).view(np.float32)


@compiled(fastmath=REORDERED)
def _sum_exp(row, peak):
    total = 0.0
    for start in range(0, row.size, _RUN):
        part = _zero
        x = row[start : start + _RUN]
        for j in range(x.size):
            part += _exp(x[j] - peak)
        total += part
    return total


@compiled()
def _write_exp(row, peak, factor, out):
    for j in range(out.size):
        out[j] = _exp(row[j] - peak) * factor


@compiled()
def _update_peak(peak, row):
    for j in range(peak.size):
        peak[j] = row[j] if row[j] > peak[j] else peak[j]


@compiled(fastmath={"contract"})
def _add_exp(row, peak, y, this, total):
    for j in range(total.size):
        e = _exp(row[j] - peak[j])
        total[j] += _zero if y[j] == this else e


@compiled()
def _write_exps(row, peak, factor, out):
    for j in range(out.size):
        out[j] = _exp(row[j] - peak[j]) * factor[j]


@compiled(fastmath={"contract"})
def _log1p(x):
    """log(1 + x) for x ≥ 0, with a relative error of at most 2e-7; NaN and infinity stay what they are.

    log(1 + x) = n log 2 + log(1 + f) with f from √½ − 1 to √2 − 1, by Cephes' constants and polynomial (logf). A last
    term gives back the digits that 1 + x has lost by rounding.
    """
    whole = x + _one
    root = np.int32(0x3F3504F3)  # the bits of √½
    bits = np.float32(whole).view(np.int32) - root
    n = np.float32(bits >> np.int32(23))
    f = np.int32((bits & np.int32(0x007FFFFF)) + root).view(np.float32) - _one
    p = np.float32(7.0376836292e-2)
    p = p * f + np.float32(-1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f + np.float32(-1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f + np.float32(-1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f + np.float32(-2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    square = f * f
    log = p * f * square + n * np.float32(-2.12194440e-4) - np.float32(0.5) * square + f + n * np.float32(0.693359375)
    return log + (x - (whole - _one)) / whole if whole < np.inf else whole


@compiled(fastmath={"contract"})
def _loss(own_score, others):
    """A position's loss, from x_y − peak and the others, whose small terms are not rounded away."""
    return _log1p(others + (_exp(own_score) - _one)) - own_score


@compiled(fastmath={"contract"})
def _write_losses(own, peak, others, out):
    for j in range(out.size):
        out[j] = _loss(own[j] - peak[j], others[j])


@compiled(fastmath={"contract"})
def _write_factors(own, peak, others, scale, weight, out):
    for j in range(out.size):
        weighted = scale if weight is None else scale * weight[j]
        out[j] = np.float32(weighted) / (others[j] + _exp(own[j] - peak[j]))


@compiled()
def _losses_of_rows(x, y, weight, peak, others, prob, row_start, row_stop):
    """Does what `losses` does where there are no inner axes: the classes of a position lie side by side."""
    loss = 0.0
    for i in range(row_start, row_stop):
        row, own = x[i].reshape(-1), max(y[i, 0], np.int32(0))
        peak[i, 0] = _largest(row)
        own_score = row[own] - peak[i, 0]
        others[i, 0] = _sum_exp(row[:own], peak[i, 0]) + _sum_exp(row[own + 1 :], peak[i, 0])
        if y[i, 0] >= 0:
            loss += _loss(own_score, others[i, 0]) * (1.0 if weight is None else weight[i, 0])
        if prob is not None:
            _write_exp(row, peak[i, 0], _one / (others[i, 0] + _exp(own_score)), prob[i].reshape(-1))
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
        factor = np.float32(weighted / (others[i, 0] + _exp(row[own] - peak[i, 0])))
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
                    value[j] = _one / (block_others[j] + (_zero if own[j] < 0 else _exp(part[j] - row_peak[j])))
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
    for c in range(0, x.shape[1], classes):
        row = _row(x, i, c, classes, start, width)
        _add_exp(row, peak, own_in_group, np.int32(c), part[: row.size])
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
    for c in range(0, x.shape[1], classes):
        row = _row(x, i, c, classes, start, width)
        _write_exps(row, peak, factor, _row(out, i, c, classes, start, width))


@compiled()
def _gather(x, i, start, own, out):
    """Copies each position's own score x_y to `out`; that of class 0 where ignored."""
    for j in range(own.size):
        out[j] = x[i, max(own[j], np.int32(0)), start + j]
