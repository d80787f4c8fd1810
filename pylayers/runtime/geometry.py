"""How many blocks and threads a kernel gets, and how they are laid over a blob."""

import numpy as np

# A larger block could not keep all the registers that softmax's widest variant needs.
MAX_THREADS = 512
# Each block leaves totals of its own in Scratch. More blocks would not be faster on today's GPUs, which hold 2048
# threads on each of at most 160 multiprocessors.
MAX_BLOCKS = 1024
# How many float64 numbers a block may leave in Scratch.
TOTALS_OF_BLOCK = 4
# These sizes as macros for the kernels.
SIZES = {"MAX_THREADS": MAX_THREADS, "MAX_BLOCKS": MAX_BLOCKS, "TOTALS_OF_BLOCK": TOTALS_OF_BLOCK}
_THREADS_OF_PROCESSOR = 2048
# Blobs from this size on are indexed with 64 bits.
_WIDE_BYTES = 2**31


def wide(shapes):
    """1 where a blob of one of these shapes is so large that its elements need indices of 64 bits, or else 0."""
    return int(any(4 * np.prod(shape, dtype=np.int64) >= _WIDE_BYTES for shape in shapes))


def blocks_for(count, threads, processors):
    """The number of blocks, no more than the GPU can run at once.

    Args:
        count: the number of blocks that would do the work in one turn each.
        threads: the number of threads in a block.
        processors: the number of the GPU's multiprocessors.
    """
    return min(count, MAX_BLOCKS, processors * (_THREADS_OF_PROCESSOR // threads))


def block_shape(positions, channels, inner, processors):
    """Lays a block over a blob of shape (outer, channels, inner).

    Args:
        positions: outer · inner.
        channels: the number of classes or channels.
        inner: the product of the axes after them.
        processors: the number of the GPU's multiprocessors.

    Returns:
        The number of threads in a block and of rows among them, powers of two. The rows share a position's channels;
        the threads of one row have a position each.
    """
    # A GPU reads memory in pieces of 32 bytes: channels of one position where inner is 1, or else several positions.
    rows = _power_of_two(min(32, channels)) if inner == 1 else 1
    lanes = 1 if inner == 1 else 8
    # Rows are added until the threads can keep the GPU busy, or until each has few channels. A thread that reads
    # four to eight scores at once hides as much latency as several threads would.
    enough = processors * _THREADS_OF_PROCESSOR // 4
    while positions * rows < enough and 8 * rows <= channels and 2 * rows * lanes <= MAX_THREADS:
        rows *= 2
    return max(256, rows * lanes), rows


def segments_of(positions, channels, rows, processors):
    """The number of segments, a power of two, that a sum is cut into so that few sums keep a GPU busy.

    Args:
        positions: the number of sums.
        channels: the number of terms of each.
        rows: the number of rows of threads in a block, from `block_shape`.
        processors: the number of the GPU's multiprocessors.
    """
    # Each thread has at least eight terms, and Scratch has room for all segments.
    most = min(
        processors * _THREADS_OF_PROCESSOR // 2 // (positions * rows),
        channels // (8 * rows),
        TOTALS_OF_BLOCK * MAX_BLOCKS // positions,
    )
    return _power_of_two(max(1, most))


def _power_of_two(number):
    """The largest power of two that is not larger than `number`."""
    return 1 << (number.bit_length() - 1)
