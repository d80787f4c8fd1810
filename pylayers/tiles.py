"""Pieces of an array that fit in the processor's cache."""

# Elements of float32 in a piece: 64 KiB, so that a handful of temporaries stay in the second-level cache.
TILE = 16384


def tiles(rows, columns, size):
    """Cuts a grid into pieces that fit in the processor's cache.

    Args:
        rows: the number of rows of the grid.
        columns: the number of its columns.
        size: the largest number of its cells in a piece, at least 1.

    Yields:
        Pairs of slices, row-major, that cover each cell once.

    >>> list(tiles(2, 5, 3))[:2]
    [(slice(0, 1, None), slice(0, 3, None)), (slice(0, 1, None), slice(3, 5, None))]
    >>> list(tiles(4, 2, 6))
    [(slice(0, 3, None), slice(0, 2, None)), (slice(3, 4, None), slice(0, 2, None))]
    """
    height = max(1, size // columns)
    width = min(columns, size)
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield slice(row, min(row + height, rows)), slice(column, min(column + width, columns))
