"""LoopedLossLayer: a loss over arrays that has loops for the CPU, too."""

import numpy as np

from pylayers.array_layer import ArrayLossLayer
from pylayers.runtime import loops
from pylayers.runtime.tiles import TILE, map_tiles, tiles


class LoopedLossLayer(ArrayLossLayer):
    """An `ArrayLossLayer` with loops that Numba compiles. Without Numba the formulas run on NumPy.

    Attributes:
        LOOPS: the full name of the module of loops.
        loops: that module, or None without Numba (set in `setup`).
    """

    LOOPS = ""

    def loss_by_loops(self, *arguments):
        """Does what `loss` does, in float64; the arguments are those from `prepare`."""
        raise NotImplementedError

    def write_by_loops(self, scale, diffs, *arguments):
        """Writes the gradients times `scale` to `diffs`, an array for each bottom, or None where it is not wanted."""
        raise NotImplementedError

    def setup(self, bottom, top):
        """As in `LossLayer`."""
        super().setup(bottom, top)
        self.loops = loops.module(self.LOOPS)

    def forward_cpu(self, bottom, top):
        """The loss by loops, or by NumPy."""
        if not self.loops:
            return super().forward_cpu(bottom, top)
        scale, arguments = self.prepared(np, [blob.data for blob in bottom])
        return float(self.loss_by_loops(*arguments)) * scale

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """The gradients by loops, or by NumPy."""
        if not self.loops:
            super().backward_cpu(loss_weight, propagate_down, bottom)
            return
        scale, arguments = self.prepared(np, [blob.data for blob in bottom])
        diffs = [blob.diff if wanted else None for blob, wanted in zip(bottom, propagate_down)]
        self.write_by_loops(loss_weight * scale, diffs, *arguments)


def sum_elements(work, *arrays, size=TILE):
    """Σ of a loop over elements, in tiles on several threads.

    Args:
        work: a function of flat parts of the arrays, which returns their sum.
        *arrays: contiguous. The first has all elements; the others as many, or one number for each of several
            neighbouring elements, such as one weight for each item. None stays None.
        size: the elements of a tile. Where an element takes long, fewer are worth a thread of their own.
    """
    return sum(map_tiles(lambda tile: work(*_parts(arrays, tile)), tiles(1, arrays[0].size, size)))


def write_elements(work, out, *arrays, size=TILE):
    """Runs a loop that writes elements, as `sum_elements` does; `work` gets the part of `out` first."""
    map_tiles(lambda tile: work(*_parts((out, *arrays), tile)), tiles(1, out.size, size))


def _parts(arrays, tile):
    *_, start, stop = tile
    return [_part(array, start, stop, arrays[0].size) for array in arrays]


def _part(array, start, stop, count):
    if array is None or array.size == count:
        return array if array is None else array.reshape(-1)[start:stop]
    each = count // array.size
    first = start // each
    return np.repeat(array.reshape(-1)[first : -(-stop // each)], each)[start - first * each :][: stop - start]
