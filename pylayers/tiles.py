"""Work cut into pieces, and done by several threads; and sums in float32 that keep their digits.

The pieces do not depend on the number of threads and their results come back in order, so that a
loss has the same bits from run to run, whatever that number is.
"""

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

# Elements of float32 in a piece: 4 MiB. Smaller pieces fit better into the cache of one core, but two threads then
# spend their time handing Python's lock to each other.
TILE = 2**20
# Rows of so few elements are better not cut: NumPy is slow with short ones.
SHORT = 256


def tiles(rows, columns, size):
    """Cuts a grid into pieces of one size, all but the last of a row or a column, and an even number of them.

    Args:
        rows: the number of rows of the grid.
        columns: the number of its columns.
        size: the largest number of its cells in a piece, at least 1.

    Returns:
        A list of pairs of slices, row-major, that cover each cell once.

    >>> tiles(2, 5, 4)[:2]
    [(slice(0, 1, None), slice(0, 3, None)), (slice(0, 1, None), slice(3, 5, None))]
    >>> tiles(4, 2, 6)
    [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 4, None), slice(0, 2, None))]
    """
    if rows * columns <= size:
        return [(slice(0, rows), slice(0, columns))]
    height, width = _even(rows, max(1, size // columns)), _even(columns, min(columns, size))
    return [
        (slice(row, min(row + height, rows)), slice(column, min(column + width, columns)))
        for row in range(0, rows, height)
        for column in range(0, columns, width)
    ]


def _even(length, most):
    """The length of parts that make up a `length`: one part, or an even number for an even number of threads."""
    parts = math.ceil(length / most)
    return math.ceil(length / (parts + parts % 2)) if parts > 1 else length


def map_tiles(work, pieces):
    """Calls `work` for every piece, on several threads where that is worth it.

    NumPy lets go of Python's lock while it computes; that is what the threads gain from.

    Args:
        work: a function of one piece.
        pieces: a list.

    Returns:
        What `work` returned, in the order of the pieces.
    """
    if len(pieces) == 1:
        return [work(pieces[0])]
    threads = min(thread_count(), len(pieces))
    if threads == 1:
        return [work(piece) for piece in pieces]
    results = [None] * len(pieces)
    todo = iter(range(len(pieces)))  # shared: each thread takes the next piece when it is done with one

    def take():
        for index in todo:
            results[index] = work(pieces[index])

    others = [_pool(threads - 1).submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:  # no thread goes on writing once this function is left
        wait(others)
    for other in others:
        other.result()
    return results


def thread_count():
    """The number of threads: OMP_NUM_THREADS where it is a positive number, or else the cores that may be used."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))


def aligned(count):
    """An uninitialized float32 array that begins where a line of the cache does.

    NumPy's own begin 16 bytes behind: at 131,000 elements np.subtract then took 1.4 times as long.
    """
    memory = np.empty(count + _LINE, np.float32)
    start = -memory.ctypes.data // memory.itemsize % _LINE
    return memory[start : start + count]


_LINE = 16


def sum_classes(terms):
    """Σ along axis 1 of a contiguous float32 array (n, C) or (n, C, inner), within about 1e-6 of that of |terms|.

    float32, in dozens of parts that are added last: better than one after the other, and faster.

    Returns:
        An array (n, 1) or (n, 1, inner).
    """
    if terms.ndim == 2:
        whole = terms.shape[1] - terms.shape[1] % _PART
        total = np.einsum("ij->i", terms[:, whole:])
        if whole:
            total += np.einsum("ijk->ij", terms[:, :whole].reshape(len(terms), -1, _PART)).sum(axis=1)
        return total[:, np.newaxis]
    rows, classes, inner = terms.shape
    # Together at least as long as NumPy takes to get going.
    group = max(math.isqrt(classes), _GROUP // inner)
    groups = classes // group
    if groups < 2:
        return _sum_in_halves(terms)
    total = _sum_in_halves(
        np.add.reduce(terms[:, : groups * group].reshape(rows, groups, -1), axis=1).reshape(rows, group, inner)
    )
    if groups * group < classes:
        total += np.add.reduce(terms[:, groups * group :], axis=1, keepdims=True)
    return total


_GROUP = 2048  # elements of rows that are added at once, so that NumPy is not slow with short ones
_PART = 512  # np.einsum adds them in 64 sums or so


def _sum_in_halves(terms):
    while terms.shape[1] > 32:
        half = terms.shape[1] // 2
        halves = terms[:, :half] + terms[:, half : 2 * half]
        if terms.shape[1] % 2:
            halves[:, 0] += terms[:, -1]
        terms = halves
    return np.add.reduce(terms, axis=1, keepdims=True)


def sum_of_products(a, b):
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


@functools.cache
def _pool(threads):
    return ThreadPoolExecutor(threads, thread_name_prefix="pylayers")


# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
