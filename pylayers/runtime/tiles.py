"""Work cut into tiles, and done by several threads.

A tile is a rectangle of a grid: its rows from `row_start` to before `row_stop`, its columns from `column_start` to
before `column_stop`. Tiles do not depend on the number of threads, and their results come back in order. So a loss has
the same bits from run to run, whatever that number is.
"""

import functools
import math
import os

import numpy as np

from pylayers.runtime.threads import share

# Elements of float32 in a tile. With Numba that is large enough that computing a tile outweighs handing over the GIL,
# which takes up to 50 µs. With NumPy it bounds the memory that the formula takes beside the blobs.
TILE = 2**18
# Rows of up to this many elements are not cut, as NumPy is slow with short rows.
SHORT = 256


def tiles_of(outer, inner, depth=1):
    """Tiles over the positions of a blob (outer, channels, inner).

    Args:
        outer: the number of rows.
        inner: the number of columns.
        depth: the elements of float32 that a position has: its channels, and what is computed beside them.

    Returns:
        A list of tiles, as from `tiles`, each of about `TILE` elements.
    """
    return tiles(outer, inner, max(TILE // depth, min(inner, SHORT)))


def tiles(rows, columns, size):
    """Cuts a grid into an even number of tiles of one size; the last of a row or a column may be smaller.

    Args:
        rows: the number of rows of the grid.
        columns: the number of its columns.
        size: the largest number of cells in a tile, at least 1.

    Returns:
        A list of tiles (row_start, row_stop, column_start, column_stop), row after row, that cover each cell once.

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
    """The length of the parts of a `length`: one part, or an even number of them for an even number of threads."""
    parts = math.ceil(length / most)
    return math.ceil(length / (parts + parts % 2)) if parts > 1 else length


def cut(tile, *arrays):
    """Views of arrays on a tile.

    Args:
        tile: one of those from `tiles`.
        *arrays: with rows on the first axis and columns on the last: (rows, columns) or (rows, channels, columns).
            A vector has one number for each row. None stays None.

    Returns:
        A list with a view of each array; a vector's is a column, (rows, 1).
    """
    row_start, row_stop, column_start, column_stop = tile
    rows, columns = slice(row_start, row_stop), slice(column_start, column_stop)
    return [
        None if array is None else array[rows, np.newaxis] if array.ndim == 1 else array[rows, ..., columns]
        for array in arrays
    ]


def quietly(function):
    """The decorator of code on NumPy that a caller's np.seterr must not change.

    NaN and infinity are results like others. Each call has an error state of its own, as threads share the function.
    """

    @functools.wraps(function)
    def quiet(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return quiet


def map_tiles(work, every_tile):
    """Calls `work` for every tile, on several threads where there are several tiles.

    NumPy and the loops release the GIL while they compute. The threads gain from that.

    Args:
        work: a function of one tile.
        every_tile: a list of tiles.

    Returns:
        What `work` returned, in the order of the tiles.
    """
    if len(every_tile) == 1:
        return [work(every_tile[0])]
    threads = min(thread_count(), len(every_tile))
    if threads == 1:
        return [work(tile) for tile in every_tile]
    results = [None] * len(every_tile)
    todo = iter(range(len(every_tile)))  # shared: each thread takes the next tile when it is done with one

    def take():
        try:
            for index in todo:
                results[index] = work(every_tile[index])
        except BaseException:
            for _ in todo:  # nobody need take the others
                pass
            raise

    share(take, threads - 1)
    return results


def thread_count():
    """The number of threads: OMP_NUM_THREADS where that is a positive number, or else the cores that may be used."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0))
