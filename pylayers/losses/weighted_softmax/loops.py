"""The losses' loops compiled by Numba: one pass over memory each, without Python's lock.

The functions of `formula`, for the same arguments. Nothing is parallel here: the layers have several threads call them
for pieces of a blob.
"""

import numba
import numpy as np

# Elements of float32 in a piece: worth the handing over of Python's lock, which is 50 µs at worst.
TILE = 2**18
# Elements of float32 that are added in float32; their sums are added in float64.
_RUN = 256
# Positions with inner axes that are worked at together. Their scores should stay in the cache, and fill much of a page
# of memory in each class.
_BLOCK = 512
# Classes that are added in float32, one after the other; their sums are added in float64.
_GROUP = 32
_REORDERED = {"reassoc", "contract", "nsz"}  # sums in any order, and so in vectors; NaN and infinity are kept

_one, _zero = np.float32(1), np.float32(0)


def _compiled(**flags):
    """The decorator: with a cache on disk where there is a folder for it."""

    def decorate(function):
        try:
            return numba.njit(function, nogil=True, error_model="numpy", cache=True, **flags)
        except RuntimeError:  # neither this file's folder nor the user's can be written
            return numba.njit(function, nogil=True, error_model="numpy", **flags)

    return decorate


# Euclidean loss.


@_compiled(fastmath=_REORDERED)
def squares(a, b, weight, first, last, left, right):
    """Σ w (a − b)² in a rectangle."""
    total = 0.0
    for row in range(first, last):
        for start in range(left, right, _RUN):
            stop = min(start + _RUN, right)
            x, y = a[row, start:stop], b[row, start:stop]
            part = _zero
            if weight is None or weight.ndim == 1:
                for j in range(x.size):
                    part += (x[j] - y[j]) * (x[j] - y[j])
            else:
                w = weight[row, start:stop]
                for j in range(x.size):
                    part += w[j] * (x[j] - y[j]) * (x[j] - y[j])
            total += part if weight is None or weight.ndim == 2 else weight[row] * part
    return total


@_compiled()
def differences(a, b, weight, factor, out, first, last, left, right):
    """Writes factor · w (a − b) in a rectangle."""
    factor = np.float32(factor)
    for row in range(first, last):
        x, y, result = a[row, left:right], b[row, left:right], out[row, left:right]
        if weight is None:
            for j in range(result.size):
                result[j] = (x[j] - y[j]) * factor
        elif weight.ndim == 1:
            w = weight[row]
            for j in range(result.size):
                result[j] = (x[j] - y[j]) * w * factor
        else:
            v = weight[row, left:right]
            for j in range(result.size):
                result[j] = (x[j] - y[j]) * v[j] * factor


# Channel-summed Euclidean loss.


@_compiled()
def squares_of_sums(a, b, residual, first, last, left, right):
    """Σ r², r being the difference of two arrays' sums along their axis 1, for a rectangle of sums."""
    total = 0.0
    sums = np.empty(_BLOCK)
    for i in range(first, last):
        if a.shape[2] == 1:
            difference = _sum(a[i].reshape(-1)) - _sum(b[i].reshape(-1))
            residual[i, 0] = difference
            total += difference * difference
            continue
        for start in range(left, right, _BLOCK):
            stop = min(start + _BLOCK, right)
            differences = sums[: stop - start]
            for j in range(differences.size):
                differences[j] = 0.0
            for c in range(a.shape[1]):
                _add(a[i, c, start:stop], 1.0, differences)
            for c in range(b.shape[1]):
                _add(b[i, c, start:stop], -1.0, differences)
            total += _keep(differences, residual[i, start:stop])
    return total


@_compiled(fastmath=_REORDERED)
def _sum(row):
    total = 0.0
    for j in range(row.size):
        total += row[j]
    return total


@_compiled()
def _add(row, factor, sums):
    for j in range(sums.size):
        sums[j] += factor * row[j]


@_compiled(fastmath=_REORDERED)
def _keep(differences, residual):
    """Copies numbers, and adds their squares."""
    total = 0.0
    for j in range(residual.size):
        residual[j] = differences[j]
        total += differences[j] * differences[j]
    return total


@_compiled()
def spread(residual, factor, out, first, last, left, right):
    """Writes factor · r to each element of each sum in a rectangle of sums."""
    factor = np.float32(factor)
    for i in range(first, last):
        if out.shape[2] == 1:
            row, value = out[i].reshape(-1), residual[i, 0] * factor
            for j in range(row.size):
                row[j] = value
            continue
        for c in range(out.shape[1]):
            values, row = residual[i, left:right], out[i, c, left:right]
            for j in range(row.size):
                row[j] = values[j] * factor


# Softmax loss.


@_compiled(fastmath={"contract"})
def _exp(x):
    """exp(x) for x ≤ 0, within 2e-7 of it, and 0 below −87; NaN stays NaN.

    2ⁿ · exp(r) with r = x − n log 2; the polynomial is the best of its degree from −log(2)/2 to log(2)/2. The compiler
    makes vectors of this, but not of a call of the C library.
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


@_compiled()
def _largest(row):
    """The largest of a row of float32; NaN where one of them is a NaN without a sign.

    As int32, whose order is the same once the bits of negative numbers are turned: for these the compiler uses vectors.
    """
    bits = row.view(np.int32)
    turned = np.int32(0x7FFFFFFF)
    largest = bits[0] ^ ((bits[0] >> np.int32(31)) & turned)
    for j in range(bits.size):
        largest = max(largest, bits[j] ^ ((bits[j] >> np.int32(31)) & turned))
    return np.int32(largest ^ ((largest >> np.int32(31)) & turned)).view(np.float32)


@_compiled(fastmath=_REORDERED)
def _sum_exp(row, shift):
    total = 0.0
    for start in range(0, row.size, _RUN):
        part = _zero
        x = row[start : start + _RUN]
        for j in range(x.size):
            part += _exp(x[j] - shift)
        total += part
    return total


@_compiled()
def _put_exp(row, shift, factor, out):
    for j in range(out.size):
        out[j] = _exp(row[j] - shift) * factor


@_compiled()
def _raise(largest, row):
    for j in range(largest.size):
        largest[j] = row[j] if row[j] > largest[j] else largest[j]


@_compiled(fastmath={"contract"})
def _add_exp(row, shift, index, this, total):
    for j in range(total.size):
        e = _exp(row[j] - shift[j])
        total[j] += _zero if index[j] == this else e


@_compiled()
def _put_exps(row, shift, factor, out):
    for j in range(out.size):
        out[j] = _exp(row[j] - shift[j]) * factor[j]


@_compiled()
def read_labels(label, classes, ignore, class_weights, weight, index, weights):
    """Checks labels, and writes each one's class and weight."""
    valid, total, changed = 0, 0.0, False
    for i in range(label.size):
        k = np.int32(-1)
        if ignore is None or label[i] != ignore:
            if not (0 <= label[i] < classes and label[i] == np.floor(label[i])):
                return valid, total, changed, i
            k = np.int32(label[i])
            valid += 1
            if weights is not None:
                w = 1.0 if class_weights is None else class_weights[k]
                if weight is not None:
                    w *= weight[i // (label.size // weight.size)]
                weights[i] = w
                total += w
        changed |= index[i] != k
        index[i] = k
    return valid, total if weights is not None else float(valid), changed, -1


@_compiled(fastmath={"contract"})
def _log1p(x):
    """log(1 + x) for x ≥ 0, within 2e-7 of it; NaN and infinity as they are.

    log(1 + x) = n log 2 + log(1 + f) with f from √½ − 1 to √2 − 1 by Cephes' constants and polynomial (logf),
    and the digits that 1 + x has lost.
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


@_compiled(fastmath={"contract"})
def _loss(below, other):
    """A position's loss, from x_y less the largest x, and the sum of the others' exp, which has its small terms."""
    return _log1p(other + (_exp(below) - _one)) - below


@_compiled(fastmath={"contract"})
def _put_losses(own, shift, other, out):
    for j in range(out.size):
        out[j] = _loss(own[j] - shift[j], other[j])


@_compiled(fastmath={"contract"})
def _put_factors(own, shift, other, scale, weights, out):
    for j in range(out.size):
        weighted = scale if weights is None else scale * weights[j]
        out[j] = np.float32(weighted) / (other[j] + _exp(own[j] - shift[j]))


def softmax_losses(x, index, weights, shift, other, prob, first, last, left, right):
    """Σ of the losses of a rectangle of positions; writes what `softmax_gradients` wants, and the softmax."""
    if x.shape[2] == 1:
        return _losses_of_rows(x, index, weights, shift, other, prob, first, last)
    return _losses_of_columns(x, index, weights, shift, other, prob, first, last, left, right)


def softmax_gradients(x, index, weights, shift, other, scale, out, first, last, left, right):
    """Writes scale · w · (softmax − 1_y) for a rectangle of positions, 0 where ignored."""
    if x.shape[2] == 1:
        _gradients_of_rows(x, index, weights, shift, other, scale, out, first, last)
    else:
        _gradients_of_columns(x, index, weights, shift, other, scale, out, first, last, left, right)


@_compiled()
def _losses_of_rows(x, index, weights, shift, other, prob, first, last):
    """Where there are no inner axes, the classes of a position lie side by side."""
    loss = 0.0
    for i in range(first, last):
        row, k = x[i].reshape(-1), max(index[i, 0], np.int32(0))
        top = _largest(row)
        below = row[k] - top
        rest = np.float32(_sum_exp(row[:k], top) + _sum_exp(row[k + 1 :], top))
        shift[i, 0] = top
        other[i, 0] = rest
        if index[i, 0] >= 0:
            loss += _loss(below, rest) * (1.0 if weights is None else weights[i, 0])
        if prob is not None:
            _put_exp(row, top, _one / (rest + _exp(below)), prob[i].reshape(-1))
    return loss


@_compiled()
def _gradients_of_rows(x, index, weights, shift, other, scale, out, first, last):
    for i in range(first, last):
        row, result, k = x[i].reshape(-1), out[i].reshape(-1), index[i, 0]
        if k < 0:
            for j in range(result.size):
                result[j] = _zero
            continue
        weighted = scale if weights is None else scale * weights[i, 0]
        factor = np.float32(weighted / (other[i, 0] + _exp(row[k] - shift[i, 0])))
        _put_exp(row, shift[i, 0], factor, result)
        result[k] = -other[i, 0] * factor


@_compiled()
def _losses_of_columns(x, index, weights, shift, other, prob, first, last, left, right):
    """Where there are inner axes, vectors go along them; along several classes at once where they are short."""
    loss = 0.0
    tops, parts, values = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    totals, labels = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.int32)
    for i in range(first, last):
        for start in range(left, right, _BLOCK):
            width = min(_BLOCK, right - start)
            groups = _groups(x, width)
            top, part, value = tops[: groups * width], parts[: groups * width], values[: groups * width]
            _find_tops(x, i, start, width, groups, top)
            k, rest = index[i, start : start + width], other[i, start : start + width]
            for group in range(groups):
                for j in range(width):
                    labels[group * width + j] = k[j] - group  # which of the group's classes is the label's
            _add_columns(x, i, start, width, groups, top, labels, part, totals[: groups * width])
            for j in range(width):
                shift[i, start + j], rest[j] = top[j], totals[j]

            _gather(x, i, start, k, part)
            _put_losses(part, top, rest, value[:width])
            for j in range(width):
                if k[j] >= 0:
                    loss += value[j] * (1.0 if weights is None else weights[i, start + j])
            if prob is not None:
                for j in range(width):
                    value[j] = _one / (rest[j] + (_zero if k[j] < 0 else _exp(part[j] - top[j])))
                _repeat(value, width)
                _put_columns(x, i, start, width, groups, top, value, prob)
    return loss


@_compiled()
def _gradients_of_columns(x, index, weights, shift, other, scale, out, first, last, left, right):
    tops, factors, owns = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for i in range(first, last):
        for start in range(left, right, _BLOCK):
            width = min(_BLOCK, right - start)
            groups = _groups(x, width)
            top, factor = tops[: groups * width], factors[: groups * width]
            rest, k = other[i, start : start + width], index[i, start : start + width]
            for j in range(width):
                top[j] = shift[i, start + j]
            _repeat(top, width)
            _gather(x, i, start, k, owns)
            of_block = None if weights is None else weights[i, start : start + width]
            _put_factors(owns, top, rest, scale, of_block, factor[:width])
            _repeat(factor, width)
            _put_columns(x, i, start, width, groups, top, factor, out)
            for j in range(width):
                if k[j] >= 0:
                    out[i, k[j], start + j] = -rest[j] * factor[j]
                else:
                    for c in range(x.shape[1]):
                        out[i, c, start + j] = _zero


@_compiled()
def _groups(x, width):
    """How many classes are worked at together, as one row: more than one only where they are neighbours in memory."""
    return min(x.shape[1], max(1, _BLOCK // width)) if width == x.shape[2] else 1


@_compiled()
def _row(x, i, c, groups, start, width):
    """The scores of up to `groups` classes from `c` on, for the columns from `start` on."""
    begin = c * x.shape[2] + start
    return x[i].reshape(-1)[begin : begin + min(groups, x.shape[1] - c) * width]


@_compiled()
def _repeat(values, width):
    """Fills an array with its first numbers, over and over."""
    for j in range(width, values.size):
        values[j] = values[j - width]


@_compiled()
def _find_tops(x, i, start, width, groups, top):
    """The largest of all classes in each column, repeated for the classes of a group."""
    for j in range(top.size):
        top[j] = -np.inf
    for c in range(0, x.shape[1], groups):
        row = _row(x, i, c, groups, start, width)
        _raise(top[: row.size], row)
    for group in range(1, groups):
        _raise(top[:width], top[group * width : (group + 1) * width])
    _repeat(top, width)


@_compiled()
def _add_columns(x, i, start, width, groups, top, labels, part, total):
    """Σ exp(x − top) over the classes but the label's, in the first `width` of `total`; `part` is scratch."""
    for j in range(total.size):
        total[j], part[j] = 0.0, _zero
    for c in range(0, x.shape[1], groups):
        row = _row(x, i, c, groups, start, width)
        _add_exp(row, top, labels, np.int32(c), part[: row.size])
        if c // groups % _GROUP == _GROUP - 1:
            _move(part, total)
    _move(part, total)
    for j in range(width, total.size):
        total[j % width] += total[j]


@_compiled()
def _move(values, total):
    for j in range(values.size):
        total[j] += values[j]
        values[j] = _zero


@_compiled()
def _put_columns(x, i, start, width, groups, top, factor, out):
    for c in range(0, x.shape[1], groups):
        row = _row(x, i, c, groups, start, width)
        _put_exps(row, top, factor, _row(out, i, c, groups, start, width))


@_compiled()
def _gather(x, i, start, k, out):
    """The labels' own scores; class 0's where ignored."""
    for j in range(k.size):
        out[j] = x[i, max(k[j], np.int32(0)), start + j]
