"""Work cut into pieces that fit in the processor's cache, and done by several threads.

The pieces do not depend on the number of threads and their results come back in order, so that a
loss has the same bits from run to run, whatever that number is.
"""

import functools
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

# Elements of float32 in a piece: 512 KiB. Smaller pieces fit better into the cache of one core, but two threads
# then spend their time handing Python's lock to each other.
TILE = 131072
# Below this number of pieces a second thread costs more than it saves.
_MIN_PIECES = 6


def tiles(rows, columns, size):
    """Cuts a grid into pieces.

    Args:
        rows: the number of rows of the grid.
        columns: the number of its columns.
        size: the largest number of its cells in a piece, at least 1.

    Returns:
        A list of pairs of slices, row-major, that cover each cell once.

    >>> tiles(2, 5, 3)[:2]
    [(slice(0, 1, None), slice(0, 3, None)), (slice(0, 1, None), slice(3, 5, None))]
    >>> tiles(4, 2, 6)
    [(slice(0, 3, None), slice(0, 2, None)), (slice(3, 4, None), slice(0, 2, None))]
    """
    if rows * columns <= size:
        return [(slice(0, rows), slice(0, columns))]
    height = max(1, size // columns)
    width = min(columns, size)
    return [
        (slice(row, min(row + height, rows)), slice(column, min(column + width, columns)))
        for row in range(0, rows, height)
        for column in range(0, columns, width)
    ]


def map_tiles(work, pieces):
    """Calls `work` for every piece, on several threads where that is worth it.

    NumPy lets go of Python's lock while it computes; that is what the threads gain from.

    Args:
        work: a function of one piece. It may keep nothing from `scratch`.
        pieces: a list.

    Returns:
        What `work` returned, in the order of the pieces.
    """
    threads = 1 if len(pieces) < _MIN_PIECES else min(thread_count(), len(pieces))
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


def scratch(shape):
    """This thread's own float32 array for temporary values, as large as asked for at most so far.

    Returns:
        An array of `shape`, its values undefined; the next call hands out the same memory again.
    """
    count = math.prod(shape)
    if getattr(_local, "memory", np.empty(0)).size < count:
        _local.memory = np.empty(count, np.float32)
    return _local.memory[:count].reshape(shape)


def sum_of_products(a, b):
    """Σ a·b of two contiguous float32 arrays of one shape, within about 1e-7 of the sum of their absolute values.

    float32 within rows, which are added in dozens of parts and short enough for BLAS to use one thread; float64
    across them.
    """
    a, b = a.reshape(-1), b.reshape(-1)
    whole = a.size - a.size % _ROW
    total = float(np.dot(a[whole:], b[whole:]))
    if whole:
        total += float(_dot_rows(a[:whole].reshape(-1, _ROW), b[:whole].reshape(-1, _ROW)).sum(dtype=np.float64))
    return total


_ROW = 4096


def _dot_rows(a, b):
    if hasattr(np, "vecdot"):  # NumPy 2
        return np.vecdot(a, b)
    return np.einsum("ij,ij->i", a, b)


_local = threading.local()


@functools.cache
def _pool(threads):
    return ThreadPoolExecutor(threads, thread_name_prefix="pylayers")


# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
