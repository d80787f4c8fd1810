"""Euclidean loss: Caffe's EuclideanLoss, with weights and a choice of normalization."""

import math
from pathlib import Path

import numpy as np

from pylayers.kernel_layer import KernelLossLayer, Plan
from pylayers.losses.euclidean import formula
from pylayers.losses.normalization import OF_ELEMENTS, counted_terms
from pylayers.runtime import loops
from pylayers.runtime.geometry import THREADS, wide
from pylayers.runtime.kernels import Kernels
from pylayers.runtime.tiles import cut, map_tiles, quietly, tiles_of


class EuclideanLossLayer(KernelLossLayer):
    """Half the squared distance between predictions and targets, as Caffe's EuclideanLoss.

        E = 1/Z · Σ w (pred − target)² / 2

    Bottoms:
        pred (N, ...): the predictions.
        target: as many elements as pred, the same N. The other axes need not agree, as in Caffe.
        weight (optional): w, one for each element of pred, or one for each of the N items. Any numbers; they are not
            checked. A constant: it gets no gradient.

    Top:
        loss (): E.

    Options (param_str):
        normalization: what Z is. "BATCH_SIZE" (default): N, as Caffe divides. "FULL": the number of elements of pred.
            "NONE": 1.

    The gradient is g · w · (pred − target) / Z for pred and its negative for target, where g is the loss weight.
    Nothing is kept from forward. Backward reads the bottoms again, so it sees what they hold then.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "pred"  bottom: "target"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "EuclideanLossLayer"  param_str: '{"normalization": "FULL"}'
          }
        }

    Raises:
        ValueError: the bottoms do not fit, when Caffe reshapes the layer.

    Source: Caffe's euclidean_loss_layer.cpp.
    """

    BOTTOMS = ("pred", "target")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("weight",)
    OPTIONS = {"normalization": OF_ELEMENTS}
    KERNELS = Kernels(Path(__file__).with_name("kernels.cu"))

    def setup(self, bottom, top):
        """Reads the options as `LossLayer` does, and loads the compiled loops where there is Numba."""
        super().setup(bottom, top)
        self._loops = loops.module(f"{__package__}.loops")

    def check_shapes(self):
        """Checks that pred and target have the same number of elements, and the number of weights."""
        self.check_same_count(1, like=0)
        self.check_weight(2, like=0)
        num, count = self.shapes[0][0], math.prod(self.shapes[0])
        self.terms = counted_terms(self.options.normalization, num, count)
        # Where each item has one weight, the rows are the items; otherwise all elements are one row.
        per_item = len(self.shapes) > 2 and math.prod(self.shapes[2]) == num
        self._matrix = (num, count // num) if per_item else (1, count)
        self._tiles = tiles_of(*self._matrix)

    def forward_cpu(self, bottom, top):
        """Returns E = 1/Z · Σ w (pred − target)² / 2; the sums of the tiles are added in float64."""
        matrices = self._matrices([blob.data for blob in bottom])

        def by_loops(tile):
            return self._loops.half_square_sum(*matrices, *tile)

        @quietly
        def by_formula(tile):
            return float(formula.half_square_sum(np, *cut(tile, *matrices), np.float32))

        return sum(map_tiles(by_loops if self._loops else by_formula, self._tiles)) / self.divisor(self.terms)

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """Writes g · w · (pred − target) / Z for pred, and its negative for target."""
        matrices = self._matrices([blob.data for blob in bottom])
        scale = loss_weight / self.divisor(self.terms)
        for index, factor in ((0, scale), (1, -scale)):
            if propagate_down[index]:
                self._write_gradient(matrices, factor, bottom[index].diff.reshape(self._matrix))

    def _write_gradient(self, matrices, scale, diff):
        def by_loops(tile):
            self._loops.write_gradient(*matrices, scale, diff, *tile)

        @quietly
        def by_formula(tile):
            *inputs, out = cut(tile, *matrices, diff)
            out[...] = formula.gradient(np, *inputs, scale, np.float32)

        map_tiles(by_loops if self._loops else by_formula, self._tiles)

    @quietly
    def reference(self, bottoms):
        """Returns the loss and its gradients by the formula, in float64."""
        rows, columns = self._matrix
        inputs = cut((0, rows, 0, columns), *self._matrices(bottoms))
        z = self.divisor(self.terms)
        loss = formula.half_square_sum(np, *inputs, np.float64) / z
        gradient = formula.gradient(np, *inputs, 1 / z, np.float64)
        pred, target = (sign * gradient.reshape(shape) for sign, shape in zip((1, -1), self.shapes))
        return loss, [pred, target, None][: len(bottoms)]

    def plan(self, processors):
        """Each thread takes four elements at a time."""
        count = math.prod(self.shapes[0])
        weights = math.prod(self.shapes[2]) if len(self.shapes) > 2 else count
        return Plan(
            tiles=math.ceil(count / (4 * THREADS)),
            macros={"WIDE": wide(self.shapes)},
            fields={"count": count, "per_weight": count // weights},
        )

    def _matrices(self, bottoms):
        """pred, target and weight as matrices. One weight for each item gives a vector, no weight gives None."""
        pred, target = bottoms[0].reshape(self._matrix), bottoms[1].reshape(self._matrix)
        if len(bottoms) < 3:
            return pred, target, None
        per_item = self._matrix[0] == bottoms[2].size
        # Where a batch is one item of one element, both shapes are right.
        return pred, target, bottoms[2].reshape(self._matrix[:1] if per_item else self._matrix)
