"""Euclidean loss: Caffe's EuclideanLoss, with weights and a choice of normalization."""

import math

from pylayers.kernel_layer import KernelLossLayer, Plan, blocks_for, wide
from pylayers.params import Choice
from pylayers.runtime import loops
from pylayers.runtime.tiles import map_tiles, tiles

_THREADS = 256


class EuclideanLossLayer(KernelLossLayer):
    """E = 1/Z · Σ w (pred − target)² / 2, Caffe's EuclideanLoss where there are no weights.

    Bottoms:
        pred: (N, ...), the predictions.
        target: N × as many elements per item as pred; the shapes may differ otherwise, as in Caffe.
        weight: optional, w: one for each element of pred, or one for each item of the batch (N elements).
            Any values; they are not checked. Constant: it gets no gradient.

    Top:
        loss: E, shape ().

    Options (param_str):
        normalization: Z. "BATCH_SIZE" (default): N, as Caffe. "FULL": the number of elements of pred. "NONE": 1.

    Gradients: g·w·(pred − target)/Z for pred and its negative for target, g being the loss weight. Unlike Caffe's
    layer this one keeps nothing from forward: backward takes what the bottoms hold then.

    Raises:
        ValueError: from `reshape`, for shapes that do not fit.

    Source: Caffe's euclidean_loss_layer.cpp.
    """

    BOTTOMS = ("pred", "target")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("weight",)
    KERNELS = "euclidean_loss"
    OPTIONS = {"normalization": Choice("BATCH_SIZE", "FULL", "NONE")}

    def check_shapes(self):
        """Checks that pred and target have the same number of elements, and the number of weights."""
        self.check_same_count(1, like=0)
        self.check_weight(2, like=0)
        num, count = self.shapes[0][0], math.prod(self.shapes[0])
        self._normalizer = {"BATCH_SIZE": num, "FULL": count, "NONE": 1}[self.options.normalization]
        # Rows that share a weight; or all in one.
        per_item = len(self.shapes) > 2 and math.prod(self.shapes[2]) == num
        self._matrix = (num, count // num) if per_item else (1, count)
        self._pieces = tiles(*self._matrix, loops.chosen().TILE)

    def forward_cpu(self, bottom, top):
        """E = 1/Z · Σ w (pred − target)² / 2, the pieces summed in float64."""
        squares, matrices = loops.chosen().squares, self._matrices(bottom)
        return sum(map_tiles(lambda piece: squares(*matrices, *piece), self._pieces)) / 2 / self._normalizer

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """g·w·(pred − target)/Z for pred, its negative for target."""
        differences, matrices = loops.chosen().differences, self._matrices(bottom)
        scale = loss_weight / self._normalizer
        for index, factor in ((0, scale), (1, -scale)):
            if propagate_down[index]:
                arguments = *matrices, factor, bottom[index].diff.reshape(self._matrix)
                map_tiles(lambda piece, arguments=arguments: differences(*arguments, *piece), self._pieces)

    def plan(self, processors):
        """Blocks of 256 threads, which take four elements at a time."""
        count = math.prod(self.shapes[0])
        weights = math.prod(self.shapes[2]) if len(self.shapes) > 2 else count
        return Plan(
            threads=_THREADS,
            blocks=blocks_for(math.ceil(count / (4 * _THREADS)), _THREADS, processors),
            macros={"WIDE": wide(self.shapes)},
            fields={"count": count, "per_weight": count // weights, "normalizer": self._normalizer},
        )

    def _matrices(self, bottom):
        """The bottoms' data, shaped for the loops; weights for items as a vector."""
        pred, target = bottom[0].data.reshape(self._matrix), bottom[1].data.reshape(self._matrix)
        if len(bottom) < 3:
            return pred, target, None
        per_item = self._matrix[0] == bottom[2].count
        return pred, target, bottom[2].data.reshape(self._matrix[:1] if per_item else self._matrix)
