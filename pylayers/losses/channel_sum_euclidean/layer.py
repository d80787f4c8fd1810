"""Channel-summed Euclidean loss: Euclidean loss between two blobs' sums over their channels."""

import math

import numpy as np

from pylayers.kernel_layer import KernelLossLayer, Plan, block_shape, blocks_for, segments_of, wide
from pylayers.params import Choice, Integer
from pylayers.runtime import loops
from pylayers.runtime.tiles import SHORT, map_tiles, tiles


class ChannelSumEuclideanLossLayer(KernelLossLayer):
    """E = 1/(2Z) · Σ (s(pred) − s(target))², s being the sum over the axes from `axis` to `end_axis`.

    With the defaults it is a fixed 1×1 convolution of ones on each bottom and EuclideanLoss; with
    ``end_axis: -1`` a Reduction (SUM, ``axis: 1``) on each and EuclideanLoss.

    Bottoms:
        pred: (N, C, ...).
        target: the shape of pred but for the summed axes, whose lengths are free (3 channels against 1).

    Top:
        loss: E, shape ().

    Options (param_str):
        axis: the first axis summed, 1 by default; not the batch's axis 0. Negative ones count from the end.
        end_axis: the last axis summed, itself included: the same as `axis` by default, -1 for all to the end.
        normalization: Z. "BATCH_SIZE" (default): N. "FULL": the number of sums of one bottom. "NONE": 1.

    Gradients: g·(s(pred) − s(target))/Z for every element of pred that is in the sum, and its negative for
    target, g being the loss weight. As with Caffe's layers pred and target must be those of the last forward.

    Raises:
        ValueError: from `reshape`, for axes and shapes that do not fit.

    Source: Caffe's base_conv_layer.cpp, reduction_layer.cpp and euclidean_loss_layer.cpp.
    """

    BOTTOMS = ("pred", "target")
    KERNELS = "channel_sum_euclidean_loss"
    NEEDS_FORWARD = True  # where there are few sums
    OPTIONS = {
        "axis": Integer(1),
        "end_axis": Integer(None),
        "normalization": Choice("BATCH_SIZE", "FULL", "NONE"),
    }

    def check_shapes(self):
        """Checks the axes, and that the two bottoms' sums have one shape."""
        axes = [self._summed_axes(index) for index in (0, 1)]
        kept = [shape[:first] + shape[last + 1 :] for shape, (first, last) in zip(self.shapes, axes)]
        if kept[0] != kept[1]:
            self.fail_bottom(
                1, f"the sums of {self.name_bottom(0)}, {self.shapes[0]} → {kept[0]}; its own sums have shape {kept[1]}"
            )
        # Each bottom as (outer, summed, inner).
        self._split = [
            (math.prod(shape[:first]), math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :]))
            for shape, (first, last) in zip(self.shapes, axes)
        ]
        outer, channels, inner = self._split[0]
        size = loops.chosen().TILE // max(channels, self._split[1][1])
        self._pieces = tiles(outer, inner, max(size, min(inner, SHORT)))
        divisors = {"BATCH_SIZE": self.shapes[0][0], "FULL": outer * inner, "NONE": 1}
        self._normalizer = divisors[self.options.normalization]

    def forward_cpu(self, bottom, top):
        """E = 1/(2Z) · Σ (s(pred) − s(target))², summed in float64."""
        squares, residual = loops.chosen().squares_of_sums, np.empty(self._split[0][::2], np.float32)
        arguments = *(blob.data.reshape(shape) for blob, shape in zip(bottom, self._split)), residual
        total = sum(map_tiles(lambda piece: squares(*arguments, *piece), self._pieces))
        self.kept = residual
        return total / 2 / self._normalizer

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """g·(s(pred) − s(target))/Z for each element of a sum, its negative for target's."""
        if self.kept is None:
            self.forward_cpu(bottom, ())
        spread, scale = loops.chosen().spread, loss_weight / self._normalizer
        for index, factor in ((0, scale), (1, -scale)):
            if propagate_down[index]:
                arguments = self.kept, factor, bottom[index].diff.reshape(self._split[index])
                map_tiles(lambda piece, arguments=arguments: spread(*arguments, *piece), self._pieces)

    def plan(self, processors):
        """A lane for each sum, its channels shared by the rows; several lanes where there are few sums."""
        (outer, pred_channels, inner), (_, target_channels, _) = self._split
        channels = max(pred_channels, target_channels)
        threads, rows = block_shape(outer * inner, channels, inner, processors)
        segments = segments_of(outer * inner, channels, rows, processors)
        return Plan(
            threads=threads,
            blocks=blocks_for(math.ceil(outer * inner * segments * rows / threads), threads, processors),
            macros={"WIDE": wide(self.shapes), "FEW": int(segments > 1)},
            fields={
                "positions": outer * inner,
                "inner": inner,
                "pred_channels": pred_channels,
                "target_channels": target_channels,
                "normalizer": self._normalizer,
                "rows": rows,
                "segments": segments,
            },
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
