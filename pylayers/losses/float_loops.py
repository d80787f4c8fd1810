"""exp, log1p and the largest of some numbers, for the losses' loops.

The compiler can vectorise this code, but not a call of the C library.
"""

import numpy as np

from pylayers.runtime.loops import compiled

_one, _zero = np.float32(1), np.float32(0)
# 1.5 · 2²³ + 127: in a sum with it a float32 is rounded to a whole number n, and the low bits hold n + 127. That is how
# a float32 writes 2ⁿ.
_ROUND32 = np.float32(12582912 + 127)
# log 2 in two parts; n times the first is exact.
_LOG2, _LOG2_REST, _INVERSE_LOG2 = np.float32(0.693359375), np.float32(-2.12194440e-4), np.float32(1.44269504)
_ROUND = (
    6755399441055744.0  # 1.5 · 2⁵²: in a sum with it, a float64 is rounded to a whole number, which the low bits hold
)


@compiled(fastmath={"contract"})
def exp(x):
    """The exponential of x ≤ 0, with a relative error of at most 2e-7; 0 below −87; NaN stays NaN."""
    shifted = x * _INVERSE_LOG2 + _ROUND32
    n = shifted - _ROUND32
    return _exp_of_parts(x, shifted, x - n * _LOG2 - n * _LOG2_REST)


@compiled(fastmath={"contract"})
def exp_minus(x, peak, large=True):
    """The exponential of x − peak ≤ 0, as `exp`, with what the subtraction rounds away: at scores of 10 up to 1e-6.

    Of x and −peak the one of larger size loses n log 2 first: both that and what the other adds then are exact. From a
    peak of 2¹⁴ on the difference is exact itself, where it is not far below −87. `large` says whether such a peak may
    come; where it is the same for a whole loop, the loop has one question less.
    """
    difference = x - peak
    shifted = difference * _INVERSE_LOG2 + _ROUND32
    n = shifted - _ROUND32
    larger = x if x < -peak else -peak
    smaller = -peak if -peak > x else x
    first = (larger - n * _LOG2) + smaller
    if large:
        first = difference - n * _LOG2 if is_large(peak) else first
    return _exp_of_parts(difference, shifted, first - n * _LOG2_REST)


@compiled()
def is_large(peak):
    """Whether the difference of a score and this peak is exact, where it is not far below −87."""
    return abs(peak) >= np.float32(2**14)


@compiled(fastmath={"contract"})
def _exp_of_parts(x, shifted, r):
    """2ⁿ · exp(r), the exponential of x = n log 2 + r; `shifted` is n + _ROUND32.

    The polynomial is the best of its degree for r from −log(2)/2 to log(2)/2.
    """
    p = np.float32(8.3125205711e-3)
    p = p * r + np.float32(4.1890155524e-2)
    p = p * r + np.float32(1.6667114198e-1)
    p = p * r + np.float32(4.9999231100e-1)
    p = p * (r * r) + r + _one
    power = np.int32(np.float32(shifted).view(np.int32) << np.int32(23)).view(np.float32)
    return _zero if x < np.float32(-87) else p * power


@compiled(fastmath={"contract"})
def log1p(x):
    """The logarithm of 1 + x for x ≥ 0, with a relative error of at most 2e-7; NaN and infinity stay what they are.

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
def log1p_of_part(x):
    """The logarithm of 1 + x for x from 0 to 1, with a relative error of at most 2e-7, in half the time; NaN stays NaN.

    It is 2 artanh s with s = x / (2 + x), which is at most 1/3, by its series.
    """
    s = x / (np.float32(2) + x)
    square = s * s
    p = np.float32(1 / 15)
    for k in (13, 11, 9, 7, 5, 3, 1):
        p = p * square + np.float32(1 / k)
    return (s + s) * p


@compiled(fastmath={"contract"})
def exp64(x):
    """The exponential of a float64 x ≤ 0, with a relative error of at most 1e-9, and 0 below −700; NaN stays NaN.

    It is 2ⁿ · exp(r) with r = x − n log 2, by Taylor's series.
    """
    shifted = x * 1.4426950408889634 + _ROUND
    r = x - (shifted - _ROUND) * 0.6931471805599453
    p = 1 / 40320.0
    for k in (5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
        p = p * r + 1 / k
    e = np.int64(np.float64(p).view(np.int64) + (np.float64(shifted).view(np.int64) << np.int64(52))).view(np.float64)
    return 0.0 if x < -700 else (e if x == x else x)


@compiled()
def largest(row):
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
