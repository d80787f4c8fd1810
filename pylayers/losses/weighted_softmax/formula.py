"""The losses' loops by NumPy's functions, where there is no Numba. Use them through `pylayers.runtime.loops`."""

import math
import threading

import numpy as np

# Elements of float32 in a piece: 4 MiB. Smaller pieces fit better into the cache of one core, but two threads then
# spend their time handing Python's lock to each other.
TILE = 2**20


def squares(a, b, weight, first, last, left, right):
    """Computes Σ w (a − b)² in a rectangle of two matrices.

    Args:
        a: a contiguous float32 matrix.
        b: another one.
        weight: such a matrix, or a vector with one number for each row, or None.
        first: the rectangle's first row.
        last: the one after its last.
        left: its first column.
        right: the one after its last.

    Returns:
        The sum, within about 1e-7 of that of the absolute values, a float.
    """
    tile = slice(first, last), slice(left, right)
    residual = np.subtract(a[tile], b[tile], out=_scratch((last - first, right - left)))
    return _sum_of_products(residual if weight is None else residual * _weight(weight, tile), residual)


def differences(a, b, weight, factor, out, first, last, left, right):
    """Writes factor · w (a − b) to a rectangle of `out`.

    Args:
        a: as in `squares`, as are `b`, `weight`, `first`, `last`, `left` and `right`.
        b: see a.
        weight: see a.
        factor: a float. It is made a float32, as in Caffe's code, so that the result has the same bits.
        out: a contiguous float32 matrix.
        first: see a.
        last: see a.
        left: see a.
        right: see a.
    """
    tile = slice(first, last), slice(left, right)
    result = np.subtract(a[tile], b[tile], out=out[tile])
    if weight is not None:
        np.multiply(result, _weight(weight, tile), out=result)
    np.multiply(result, np.float32(factor), out=result)


def squares_of_sums(a, b, residual, first, last, left, right):
    """Computes Σ r², r being the difference of two arrays' sums along their axis 1, for a rectangle of sums.

    Args:
        a: a contiguous float32 array (outer, C, inner).
        b: another one, whose C is free.
        residual: float32 (outer, inner), a result: r.
        first: the rectangle's first outer index.
        last: the one after its last.
        left: its first inner index.
        right: the one after its last.

    Returns:
        The sum, a float; all is added in float64.
    """
    tile = slice(first, last), slice(left, right)
    sums = [_sum_exactly(array[first:last, :, left:right]) for array in (a, b)]
    difference = np.subtract(*sums, dtype=np.float64)
    residual[tile] = difference
    return float(np.einsum("ij,ij->", difference, difference))


def spread(residual, factor, out, first, last, left, right):
    """Writes factor · r to each element of each sum in a rectangle of sums.

    Args:
        residual: as in `squares_of_sums`, as are `first`, `last`, `left` and `right`.
        factor: a float; see `differences`.
        out: a contiguous float32 array (outer, C, inner), the result.
        first: see residual.
        last: see residual.
        left: see residual.
        right: see residual.
    """
    scaled = residual[first:last, left:right] * np.float32(factor)
    out[first:last, :, left:right] = scaled[:, np.newaxis]


def read_labels(label, classes, ignore, class_weights, weight, index, weights):
    """Checks labels, and writes each one's class and weight.

    Args:
        label: float32 (n,).
        classes: their number.
        ignore: the label of positions that do not count, or None.
        class_weights: float64 (classes,), or None.
        weight: float32 (m,) where m divides n, one for n/m labels; or None.
        index: int32 (n,), the result: −1 for a label that is ignored.
        weights: float64 (n,), the result; None where `class_weights` and `weight` are.

    Returns:
        The number of labels that count, the sum of their weights, whether `index` has changed, and where the first
        wrong label is, or −1. With a wrong label only the last two mean anything.
    """
    ignored = None if ignore is None else label == ignore
    valid = label if ignored is None else np.where(ignored, np.float32(0), label)
    # Not true either where a label is NaN.
    if not (valid.min() >= 0 and valid.max() < classes and (valid == np.floor(valid)).all()):
        good = (valid >= 0) & (valid < classes) & (valid == np.floor(valid))
        return 0, 0.0, True, int(np.argmin(good))
    found = valid.astype(np.int32)
    if weights is not None:
        weights[:] = 1.0 if class_weights is None else class_weights[found]
        if weight is not None:
            by_weight = weights.reshape(len(weight), -1)
            np.multiply(by_weight, weight[:, np.newaxis], out=by_weight)
    if ignored is not None:
        found[ignored] = -1
    count = label.size if ignored is None else label.size - np.count_nonzero(ignored)
    total = count if weights is None else np.sum(weights, where=True if ignored is None else ~ignored)
    changed = not np.array_equal(found, index)
    index[:] = found
    return count, float(total), changed, -1


def softmax_losses(x, index, weights, shift, other, prob, first, last, left, right):
    """Computes the sum of the losses w · (log Σ exp(x_j) − x_y) of a rectangle of positions.

    Args:
        x: float32 (outer, C, inner), the scores.
        index: int32 (outer, inner), the labels, −1 for those that do not count.
        weights: float64 (outer, inner), or None.
        shift: float32 (outer, inner), a result, for `softmax_gradients`: the largest score.
        other: float32 (outer, inner), another: Σ exp(x_j − shift) over the classes but the label's.
        prob: float32 (outer, C, inner), a result: the softmax of the scores; or None.
        first: the first of the rectangle's outer indices.
        last: the one after the last.
        left: the first of its inner indices.
        right: the one after the last.

    Returns:
        The sum, a float.
    """
    tile = slice(first, last), slice(left, right)
    part, k = x[first:last, :, left:right], index[tile]
    own = _own(k)
    top = np.maximum.reduce(part, axis=1)
    exp = np.subtract(part, top[:, np.newaxis], out=_scratch(part.shape))
    below = exp[own]
    np.exp(exp, out=exp)
    # Without it the sum keeps its small terms, and with them a small loss.
    exp[own] = 0
    rest = np.add.reduce(exp, axis=1, dtype=np.float64).astype(np.float32)
    shift[tile], other[tile] = top, rest
    own_exp = np.exp(below)
    loss = np.log1p(rest + (own_exp - np.float32(1))) - below
    if prob is not None:
        exp[own] = own_exp
        np.divide(exp, (rest + own_exp)[:, np.newaxis], out=prob[first:last, :, left:right])
    if weights is not None:
        loss = loss * weights[tile]
    loss[k < 0] = 0
    return float(np.add.reduce(loss, None, np.float64))


def softmax_gradients(x, index, weights, shift, other, scale, out, first, last, left, right):
    """Writes scale · w · (softmax − 1_y) for a rectangle of positions, 0 where ignored.

    Args:
        x: as in `softmax_losses`, as are `index`, `weights`, `first`, `last`, `left` and `right`.
        index: see x.
        weights: see x.
        shift: as `softmax_losses` has left it for these scores and labels.
        other: so too.
        scale: a float.
        out: float32 (outer, C, inner), the result.
        first: see x.
        last: see x.
        left: see x.
        right: see x.
    """
    tile = slice(first, last), slice(left, right)
    gradient, k, rest = out[first:last, :, left:right], index[tile], other[tile]
    own = _own(k)
    np.subtract(x[first:last, :, left:right], shift[tile][:, np.newaxis], out=gradient)
    np.exp(gradient, out=gradient)
    weighted = scale if weights is None else scale * weights[tile]
    factor = (weighted / (rest + gradient[own])).astype(np.float32, copy=False)
    np.multiply(gradient, factor[:, np.newaxis], out=gradient)
    gradient[own] = -rest * factor
    ignored = k < 0
    if ignored.any():
        np.copyto(gradient, 0, where=ignored[:, np.newaxis])


def _weight(weight, tile):
    return weight[tile] if weight.ndim == 2 else weight[tile[0]][:, np.newaxis]


def _sum_exactly(part):
    """Sums along axis 1 in float64; the numbers themselves where there is one in each."""
    return part[:, 0] if part.shape[1] == 1 else np.add.reduce(part, axis=1, dtype=np.float64)


def _own(index):
    """Where the labels' own lie in (n, C, m), for labels (n, m); class 0 where ignored."""
    return np.arange(index.shape[0])[:, np.newaxis], np.maximum(index, 0), np.arange(index.shape[1])


def _scratch(shape):
    """A contiguous float32 array of this thread's own memory, until the next call."""
    count = math.prod(shape)
    memory = getattr(_memory, "array", None)
    if memory is None or memory.size < count:
        memory = _memory.array = np.empty(count, np.float32)
    return memory[:count].reshape(shape)


_memory = threading.local()


def _sum_of_products(a, b):
    """Σ a·b of two contiguous float32 arrays of one shape, within about 1e-7 of the sum of their absolute values.

    float32 within rows, which are added in dozens of parts and short enough for BLAS to use one thread; float64
    across them.
    """
    if a.size <= _ROW:
        return float(np.vdot(a, b))
    a, b = a.reshape(-1), b.reshape(-1)
    whole = a.size - a.size % _ROW
    total = float(np.dot(a[whole:], b[whole:]))
    total += float(_dot_rows(a[:whole].reshape(-1, _ROW), b[:whole].reshape(-1, _ROW)).sum(dtype=np.float64))
    return total


_ROW = 4096


def _dot_rows(a, b):
    if hasattr(np, "vecdot"):  # NumPy 2
        return np.vecdot(a, b)
    return np.einsum("ij,ij->i", a, b)
