"""How many blocks and threads a kernel gets, and how they are laid over a blob."""

import numpy as np

# Threads in a block, as many as share their sums by __syncthreads. Four such blocks and more fit on a multiprocessor.
THREADS = 256
# Each block leaves totals of its own in Scratch. Today's GPUs run at most 8 blocks on each of some 190 multiprocessors.
MAX_BLOCKS = 2048
# How many float64 numbers a block may leave in Scratch.
TOTALS_OF_BLOCK = 4
# Scores or channels that a thread reads before it waits for the first of them.
CHUNK = 8
# These sizes as macros for the kernels.
SIZES = {"THREADS": THREADS, "MAX_BLOCKS": MAX_BLOCKS, "TOTALS_OF_BLOCK": TOTALS_OF_BLOCK, "CHUNK": CHUNK}
_THREADS_OF_PROCESSOR = 2048
# Blobs from this size on are indexed with 64 bits.
_WIDE_BYTES = 2**31


def wide(shapes):
    """1 where a blob of one of these shapes is so large that its elements need indices of 64 bits, or else 0."""
    return int(any(4 * np.prod(shape, dtype=np.int64) >= _WIDE_BYTES for shape in shapes))


def rows_of(positions, channels, inner, processors):
    """The number of rows, a power of two, of a block's threads over a blob of shape (outer, channels, inner).

    The rows share a position's channels; the threads of one row have a position each.

    Args:
        positions: outer · inner.
        channels: the number of classes or channels.
        inner: the product of the axes after them.
        processors: the number of the GPU's multiprocessors.
    """
    if channels <= CHUNK:
        return 1  # a thread has them all on their way at once
    # A GPU reads memory in pieces of 32 bytes: channels of one position where inner is 1, or else several positions.
    rows, lanes = (_power_of_two(min(32, channels)), 1) if inner == 1 else (1, 8)
    # Rows are added until the threads can keep the GPU busy, or until each has few channels. A thread that reads
    # a chunk at once hides as much latency as several threads would.
    enough = processors * _THREADS_OF_PROCESSOR // 4
    while positions * rows < enough and CHUNK * rows <= channels and 2 * rows * lanes <= THREADS:
        rows *= 2
    return rows


def division_by(number):
    """The multiplier and the shift by which a kernel divides: n // number == (n * multiplier) >> shift for 0 ≤ n < 2³¹.

    Args:
        number: the divisor, from 1 to 2³¹.

    >>> multiplier, shift = division_by(7)
    >>> 1000 * multiplier >> shift
    142
    """
    shift = 31 + (number - 1).bit_length()
    return -(-(1 << shift) // number), shift


def fields_of(outer, inner, rows):
    """What each kernel over positions is told of their place in memory, a dict of fields of Params.

    Args:
        outer: the product of the axes before the classes or channels.
        inner: that of the axes after them.
        rows: from `rows_of`.
    """
    multiplier, shift = division_by(inner)
    return {
        "positions": outer * inner,
        "inner": inner,
        "inner_multiplier": multiplier,
        "inner_shift": shift,
        "row_bits": rows.bit_length() - 1,
    }


def segments_of(positions, channels, rows, processors):
    """The number of segments, a power of two, that a sum is cut into so that few sums keep a GPU busy.

    Args:
        positions: the number of sums.
        channels: the number of terms of each.
        rows: the number of rows of threads in a block, from `rows_of`.
        processors: the number of the GPU's multiprocessors.
    """
    # Each thread has at least a chunk of terms, and Scratch has room for all segments.
    most = min(
        processors * _THREADS_OF_PROCESSOR // 2 // (positions * rows),
        channels // (CHUNK * rows),
        TOTALS_OF_BLOCK * MAX_BLOCKS // positions,
    )
    return _power_of_two(max(1, most))


def _power_of_two(number):
    """The largest power of two that is not larger than `number`."""
    return 1 << (number.bit_length() - 1)
