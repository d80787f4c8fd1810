"""Euclidean loss: Caffe's EuclideanLoss, with weights and a choice of normalization."""

import math

import numpy as np

from pylayers.gpu import KernelLossLayer, Plan, blocks_for, wide
from pylayers.layer import by_item
from pylayers.params import Choice
from pylayers.tiles import TILE, aligned, map_tiles, sum_of_products, tiles

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

    Gradients: g·w·(pred − target)/Z for pred and its negative for target, g being the loss weight. As with
    Caffe's layer pred and target must be those of the last forward; weights that have changed since are seen.

    Raises:
        ValueError: from `reshape`, for shapes that do not fit.

    Source: Caffe's euclidean_loss_layer.cpp.
    """

    BOTTOMS = ("pred", "target")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("weight",)
    KERNELS = "euclidean_loss"
    OPTIONS = {"normalization": Choice("BATCH_SIZE", "FULL", "NONE")}

    _residual = np.empty((0, 0), np.float32)  # pred − target of the last forward, as Caffe's layer keeps it

    def check_shapes(self):
        """Checks that pred and target have the same number of elements, and the number of weights."""
        self.check_same_count(1, like=0)
        self.check_weight(2, like=0)
        num, count = self.shapes[0][0], math.prod(self.shapes[0])
        self._normalizer = {"BATCH_SIZE": num, "FULL": count, "NONE": 1}[self.options.normalization]
        self._matrix = num, count // num
        self._pieces = tiles(*self._matrix, TILE)

    def forward_cpu(self, bottom, top):
        """E = 1/Z · Σ w (pred − target)² / 2, the pieces summed in float64."""
        pred, target = by_item(bottom[0].data), by_item(bottom[1].data)
        weight = self._weight(bottom[2]) if len(bottom) > 2 else None
        if self._residual.shape != self._matrix:
            self._residual = aligned(math.prod(self._matrix)).reshape(self._matrix)

        def piece(tile):
            residual = np.subtract(pred[tile], target[tile], self._residual[tile])
            return sum_of_products(residual if weight is None else residual * weight[tile], residual)

        total = sum(map_tiles(piece, self._pieces))
        self.kept = self._residual
        return total / 2 / self._normalizer

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """g·w·(pred − target)/Z for pred, its negative for target, with the last forward's residual."""
        if self.kept is None:
            self.forward_cpu(bottom, ())
        kept, weight = self.kept, self._weight(bottom[2]) if len(bottom) > 2 else None
        # One float32 factor, as in Caffe's code, so that the gradient has the same bits.
        scale = np.float32(loss_weight / self._normalizer)
        wanted = []
        if propagate_down[0]:
            wanted.append((scale, by_item(bottom[0].diff)))
        if propagate_down[1]:
            wanted.append((-scale, by_item(bottom[1].diff)))

        def piece(tile):
            weighted = kept[tile] if weight is None else kept[tile] * weight[tile]
            for factor, diff in wanted:
                np.multiply(weighted, factor, diff[tile])

        map_tiles(piece, self._pieces)

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

    def _weight(self, blob):
        return np.broadcast_to(by_item(blob.data), self._matrix)
