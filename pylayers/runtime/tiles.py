"""Work cut into pieces, and done by several threads.

The pieces do not depend on the number of threads and their results come back in order, so that a
loss has the same bits from run to run, whatever that number is.
"""

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor, wait

# Rows of so few elements are better not cut: NumPy is slow with short ones.
SHORT = 256


def tiles(rows, columns, size):
    """Cuts a grid into pieces of one size, all but the last of a row or a column, and an even number of them.

    Args:
        rows: the number of rows of the grid.
        columns: the number of its columns.
        size: the largest number of its cells in a piece, at least 1.

    Returns:
        A list of rectangles (first row, the row after its last, first column, the column after its last), row-major,
        that cover each cell once.

    >>> tiles(2, 5, 4)[:2]
    [(0, 1, 0, 3), (0, 1, 3, 5)]
    >>> tiles(4, 2, 6)
    [(0, 2, 0, 2), (2, 4, 0, 2)]
    """
    if rows * columns <= size:
        return [(0, rows, 0, columns)]
    height, width = _even(rows, max(1, size // columns)), _even(columns, min(columns, size))
    return [
        (row, min(row + height, rows), column, min(column + width, columns))
        for row in range(0, rows, height)
        for column in range(0, columns, width)
    ]


def _even(length, most):
    """The length of parts that make up a `length`: one part, or an even number for an even number of threads."""
    parts = math.ceil(length / most)
    return math.ceil(length / (parts + parts % 2)) if parts > 1 else length


def map_tiles(work, pieces):
    """Calls `work` for every piece, on several threads where that is worth it.

    The loops let go of Python's lock while they compute; that is what the threads gain from.

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

    others = []
    try:
        for _ in range(threads - 1):
            others.append(_pool(threads - 1).submit(take))
        take()
    finally:  # no thread goes on writing once this function is left; one that comes too late need not begin
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()
    return results


def thread_count():
    """The number of threads: OMP_NUM_THREADS where it is a positive number, or else the cores that may be used."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))


@functools.cache
def _pool(threads):
    return ThreadPoolExecutor(threads, thread_name_prefix="pylayers")


# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_pool.cache_clear)
