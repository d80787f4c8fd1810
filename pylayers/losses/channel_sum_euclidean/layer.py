"""Channel-summed Euclidean loss: Euclidean loss between two blobs' sums over their channels."""

import math
from pathlib import Path

import numpy as np

from pylayers.kernel_layer import KernelLossLayer, Plan
from pylayers.losses.channel_sum_euclidean import formula
from pylayers.losses.normalization import OF_ELEMENTS, counted_terms
from pylayers.params import Integer
from pylayers.runtime import loops
from pylayers.runtime.geometry import CHUNK, THREADS, fields_of, rows_of, segments_of, wide
from pylayers.runtime.kernels import Kernels
from pylayers.runtime.tiles import cut, map_tiles, quietly, tiles_of


class ChannelSumEuclideanLossLayer(KernelLossLayer):
    """Half the squared distance between two blobs' sums over their channels.

        E = 1/Z · Σ (s(pred) − s(target))² / 2, s being the sum over the axes from `axis` to `end_axis`

    By default it equals a fixed 1×1 convolution of ones on each bottom and EuclideanLoss. With ``end_axis: -1`` it
    equals a Reduction (SUM, ``axis: 1``) on each bottom and EuclideanLoss.

    Bottoms:
        pred (N, C, ...): the predictions.
        target: of the same shape as pred, except that the summed axes may have other lengths, such as 1 channel for 3.

    Top:
        loss (): E.

    Options (param_str):
        axis: the first axis summed, 1 by default; not the batch's axis 0. Negative ones count from the end.
        end_axis: the last axis summed, itself included. By default it is the same as `axis`; -1 sums all to the end.
        normalization: what Z is. "BATCH_SIZE" (default): N. "FULL": the number of sums of one bottom. "NONE": 1.

    The gradient is g · (s(pred) − s(target)) / Z for every element of pred that is in the sum, and its negative for
    target, where g is the loss weight. Forward keeps one number for each sum, which backward reads. So pred and target
    must be those of the last forward, as with Caffe's layers.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "pred"  bottom: "target"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "ChannelSumEuclideanLossLayer"  param_str: '{"end_axis": -1}'
          }
        }

    Raises:
        ValueError: an axis or the bottoms do not fit, when Caffe reshapes the layer.

    Source: Caffe's base_conv_layer.cpp, reduction_layer.cpp and euclidean_loss_layer.cpp.
    """

    BOTTOMS = ("pred", "target")
    OPTIONS = {
        "axis": Integer(1),
        "end_axis": Integer(None),
        "normalization": OF_ELEMENTS,
    }
    KERNELS = Kernels(Path(__file__).with_name("kernels.cu"))
    NEEDS_FORWARD = True  # backward reads the residuals that forward has kept

    def setup(self, bottom, top):
        """Reads the options as `LossLayer` does, and loads the compiled loops where there is Numba."""
        super().setup(bottom, top)
        self._loops = loops.module(f"{__package__}.loops")

    def check_shapes(self):
        """Checks the axes, and that the sums of the two bottoms have the same shape."""
        axes = [self._summed_axes(index) for index in (0, 1)]
        kept = [shape[:first] + shape[last + 1 :] for shape, (first, last) in zip(self.shapes, axes)]
        if kept[0] != kept[1]:
            self.fail_bottom(
                1, f"the sums of {self.name_bottom(0)}, {self.shapes[0]} → {kept[0]}; its own sums have shape {kept[1]}"
            )
        # The shape of each bottom as (outer, summed, inner).
        self._shapes_3d = [
            (math.prod(shape[:first]), math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :]))
            for shape, (first, last) in zip(self.shapes, axes)
        ]
        (outer, channels, inner), (_, target_channels, _) = self._shapes_3d
        depth = max(channels, target_channels)
        # Channels side by side are added up in a quarter of the time.
        self._tiles = tiles_of(outer, inner, max(1, depth // 4) if inner == 1 else depth)
        self.terms = counted_terms(self.options.normalization, self.shapes[0][0], outer * inner)

    def forward_cpu(self, bottom, top):
        """Returns E = 1/Z · Σ (s(pred) − s(target))² / 2, added in float64, and keeps the residuals for backward."""
        return self._keep_residuals(bottom) / self.divisor(self.terms)

    def _keep_residuals(self, bottom):
        """Keeps s(pred) − s(target), and returns half the sum of its squares."""
        pred, target = self._as_3d([blob.data for blob in bottom])
        residual = np.empty(self._shapes_3d[0][::2], np.float32)

        def by_loops(tile):
            return self._loops.write_residuals(pred, target, residual, *tile)

        @quietly
        def by_formula(tile):
            *inputs, out = cut(tile, pred, target, residual)
            exact = formula.residuals(np, *inputs, np.float64)
            out[...] = exact
            return float(formula.half_square_sum(np, exact))

        total = sum(map_tiles(by_loops if self._loops else by_formula, self._tiles))
        self.kept = residual
        return total

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """Writes g · (s(pred) − s(target)) / Z for each summed element of pred, its negative for those of target."""
        if self.kept is None:
            self._keep_residuals(bottom)
        scale = loss_weight / self.divisor(self.terms)
        for index, factor in ((0, scale), (1, -scale)):
            if propagate_down[index]:
                self._write_gradient(factor, bottom[index].diff.reshape(self._shapes_3d[index]))

    def _write_gradient(self, scale, diff):
        def by_loops(tile):
            self._loops.broadcast_residual(self.kept, scale, diff, *tile)

        @quietly
        def by_formula(tile):
            residual, out = cut(tile, self.kept, diff)
            out[...] = formula.gradient(np, residual, scale, diff.shape[1], np.float32)

        map_tiles(by_loops if self._loops else by_formula, self._tiles)

    @quietly
    def reference(self, bottoms):
        """Returns the loss and its gradients by the formula, in float64."""
        z, residual = self.divisor(self.terms), formula.residuals(np, *self._as_3d(bottoms), np.float64)
        gradients = [
            formula.gradient(np, residual, sign / z, channels, np.float64).reshape(shape)
            for sign, (_, channels, _), shape in zip((1, -1), self._shapes_3d, self.shapes)
        ]
        return formula.half_square_sum(np, residual) / z, gradients

    def _as_3d(self, arrays):
        """The bottoms' arrays as (outer, summed, inner)."""
        return [array.reshape(shape) for array, shape in zip(arrays, self._shapes_3d)]

    def plan(self, processors):
        """Gives each sum a lane, whose rows share the channels; each sum gets several lanes where sums are few."""
        (outer, pred_channels, inner), (_, target_channels, _) = self._shapes_3d
        channels = max(pred_channels, target_channels)
        rows = rows_of(outer * inner, channels, inner, processors)
        segments = segments_of(outer * inner, channels, rows, processors)
        few_channels = channels <= CHUNK
        return Plan(
            tiles=math.ceil(outer * inner * segments * rows / THREADS),
            macros={
                "WIDE": wide(self.shapes),
                "FEW": int(segments > 1),
                "PRED_CHANNELS": pred_channels if few_channels else 0,
                "TARGET_CHANNELS": target_channels if few_channels else 0,
            },
            fields={
                **fields_of(outer, inner, rows),
                "pred_channels": pred_channels,
                "target_channels": target_channels,
                "segments": segments,
            },
            kept=outer * inner,
        )

    def _summed_axes(self, index):
        """The first and the last axis of the sum in the bottom at `index`, counted from 0."""
        shape = self.shapes[index]
        if len(shape) < 2:
            self.fail_bottom(index, "at least two axes, the batch's and one to sum over, such as (N, 1)")
        found = {}
        for key in ("axis", "end_axis"):
            value = getattr(self.options, key)
            if value is None:
                value = self.options.axis
            found[key] = value + len(shape) if value < 0 else value
            if not 1 <= found[key] < len(shape):
                self.fail(
                    f'param_str key "{key}" must name an axis of {self.name_bottom(index)} of shape {shape} other '
                    f"than the batch's: from 1 to {len(shape) - 1}, or -1 for the last; found {value}"
                )
        if found["axis"] > found["end_axis"]:
            self.fail(
                f'param_str key "end_axis" must not come before "axis" ({self.options.axis}) in '
                f"{self.name_bottom(index)} of shape {shape}, found {self.options.end_axis}"
            )
        return found["axis"], found["end_axis"]
