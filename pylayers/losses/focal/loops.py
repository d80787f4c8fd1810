"""The loops of the focal loss, compiled by Numba. They compute what ``formula.py`` says."""

import numpy as np

from pylayers.losses.float_loops import exp, exp64, exp_minus, log1p, log1p_of_part
from pylayers.losses.weighted_softmax.loops import losses, write_gradients
from pylayers.runtime.loops import REORDERED, compiled

__all__ = ["losses", "sigmoid_total", "softmax_total", "write_gradients", "write_sigmoid_gradient"]
# Number of scores or positions that are computed together, and whose terms are added in float32. The sums are added in
# float64.
_RUN = 256
_one, _zero = np.float32(1), np.float32(0)


# activation: SIGMOID. The arrays are vectors: x float32, y int32, weight float64 or None. Loops that write to more than
# one of them are not vectorised.


@compiled()
def _rows(buffers, size):
    """The first numbers of five buffers; as rows of one slice they would not be contiguous for the compiler."""
    return buffers[0][:size], buffers[1][:size], buffers[2][:size], buffers[3][:size], buffers[4][:size]


@compiled(fastmath={"contract"})
def _find(x, y, gamma, z, e, log, q, power):
    """Finds what a run of scores has for its classes y.

    z is x, or −x where y is 0; e is exp(−|z|), and log is log(1 + e). From them come p = sigmoid(z), q = 1 − p, and
    ℓ = log + max(−z, 0). A power has γ times the error of q, so all but the usual γ are by −log q = log + max(z, 0).
    """
    for j in range(z.size):
        z[j] = x[j] if y[j] == 1 else -x[j]
    for j in range(z.size):
        e[j] = exp(-abs(z[j]))
    for j in range(z.size):
        log[j] = log1p_of_part(e[j])
    for j in range(z.size):
        q[j] = (e[j] if z[j] > 0 else _one) / (_one + e[j])
    if gamma == 2:
        for j in range(z.size):
            power[j] = q[j] * q[j]
    elif gamma == 1:
        power[:] = q
    elif gamma == 0:
        power[:] = _one
    else:
        for j in range(z.size):
            power[j] = exp64(-gamma * (np.float64(log[j]) + np.float64(z[j] if z[j] > 0 else _zero)))


@compiled(fastmath=REORDERED)
def sigmoid_total(x, y, weight, gamma):
    """Σ w q^γ ℓ over the scores that count, a float."""
    loss, buffers = 0.0, np.empty((5, _RUN), np.float32)
    for start in range(0, x.size, _RUN):
        run = slice(start, min(start + _RUN, x.size))
        own, w = y[run], None if weight is None else weight[run]
        z, e, log, q, power = _rows(buffers, own.size)
        _find(x[run], own, gamma, z, e, log, q, power)
        part = _zero
        for j in range(own.size):
            term = power[j] * (log[j] + (_zero if z[j] > 0 else -z[j]))
            if w is not None:
                term *= np.float32(w[j])
            part += term if own[j] >= 0 else _zero
        loss += part
    return loss


@compiled(fastmath={"contract"})
def write_sigmoid_gradient(diff, x, y, weight, gamma, scale):
    """Writes scale · w · d(q^γ ℓ)/dx to `diff`, and 0 where y is negative."""
    scale, gamma32, buffers = np.float32(scale), np.float32(gamma), np.empty((5, _RUN), np.float32)
    for start in range(0, x.size, _RUN):
        run = slice(start, min(start + _RUN, x.size))
        own, out, w = y[run], diff[run], None if weight is None else weight[run]
        z, e, log, q, power = _rows(buffers, own.size)
        _find(x[run], own, gamma, z, e, log, q, power)
        for j in range(own.size):
            p = (_one if z[j] > 0 else e[j]) / (_one + e[j])
            entropy = log[j] + (_zero if z[j] > 0 else -z[j])
            # q times the factor of formula.modulate, q^γ (1 + γ p ℓ/q)
            slope = scale * power[j] * (q[j] + gamma32 * p * entropy)
            if w is not None:
                slope *= np.float32(w[j])
            slope = -slope if own[j] == 1 else slope
            out[j] = slope if own[j] >= 0 else _zero


# activation: SOFTMAX. It comes after `losses` of the softmax loss.


@compiled()
def _write_power(x, y, peak, own, gamma, others, power):
    """Writes q^γ of a run of positions, from others in float64: a power has γ times the error of what it is made of."""
    for j in range(y.size):
        others[j] = 0.0
    for c in range(x.shape[0]):
        for j in range(y.size):
            others[j] += exp64(np.float64(x[c, j]) - np.float64(peak[j])) if y[j] != c else 0.0
    for j in range(y.size):
        power[j] = (others[j] / (others[j] + own[j])) ** gamma


@compiled(fastmath={"contract"})
def softmax_total(x, y, weight, peak, others, factor, gamma, row_start, row_stop, column_start, column_stop):
    """Σ w q^γ ℓ over the positions of a tile that count, a float.

    Args:
        x: the scores, float32 (outer, C, inner).
        y: the classes, int32 (outer, inner), negative where ignored.
        weight: float64 (outer, inner), or None for all 1.
        peak: the peak of each position, and
        others: its others, as `losses` has written them.
        factor: overwritten with d(q^γ ℓ)/dℓ of each position.
        gamma: γ.
        row_start: the tile's first row.
        row_stop: one past its last row.
        column_start: the tile's first column.
        column_stop: one past its last column.
    """
    loss, gamma32 = 0.0, np.float32(gamma)
    score, own, q, power = np.empty((4, _RUN), np.float32)
    exact = np.empty(_RUN)
    for i in range(row_start, row_stop):
        for start in range(column_start, column_stop, _RUN):
            size = min(_RUN, column_stop - start)
            classes, peaks = y[i, start : start + size], peak[i, start : start + size]
            rest = others[i, start : start + size]
            for j in range(size):
                score[j] = x[i, max(classes[j], np.int32(0)), start + j]
            for j in range(size):
                own[j] = exp_minus(score[j], peaks[j])
            for j in range(size):
                q[j] = rest[j] / (rest[j] + own[j])
            if gamma == 2:
                for j in range(size):
                    power[j] = q[j] * q[j]
            elif gamma < 2:
                for j in range(size):
                    power[j] = np.float64(q[j]) ** gamma
            else:
                _write_power(x[i, :, start : start + size], classes, peaks, own, gamma, exact, power)
            for j in range(size):
                score[j] = log1p(rest[j] + (own[j] - _one)) - (score[j] - peaks[j])  # ℓ
            out = factor[i, start : start + size]
            for j in range(size):
                ratio = score[j] / q[j] if q[j] > 0 else _one
                out[j] = power[j] * (_one + gamma32 * own[j] / (rest[j] + own[j]) * ratio)
            for j in range(size):
                if classes[j] >= 0:
                    loss += power[j] * score[j] * (1.0 if weight is None else weight[i, start + j])
    return loss
