"""Weighted softmax loss: Caffe's SoftmaxWithLoss, with a weight for each class and for each label."""

import ctypes
import math
from pathlib import Path

import numpy as np

from pylayers.kernel_layer import KernelLossLayer, Plan
from pylayers.losses import labels
from pylayers.losses.normalization import counted_terms
from pylayers.losses.weighted_softmax import formula
from pylayers.runtime import gpu, loops
from pylayers.runtime.geometry import CHUNK, THREADS, fields_of, rows_of, wide
from pylayers.runtime.kernels import Kernels
from pylayers.runtime.tiles import cut, map_tiles, quietly, tiles_of

# Bookkeeping for each position beside its C scores, in float32 elements; used only to size the tiles.
_BESIDE_SCORES = 8


class WeightedSoftmaxLossLayer(KernelLossLayer):
    """Softmax and cross-entropy in one, as Caffe's SoftmaxWithLoss, with weights for classes and for labels.

        E = 1/Z · Σ w_y · w_i · (log Σ_j exp(scores_j) − scores_y), over the positions i whose label y counts

    Bottoms:
        scores (N, ..., C, ...): C classes along `axis`, unnormalized.
        label: one whole number from 0 to C − 1, or `ignore_label`, for each position. The positions are those of
            scores without `axis`. A constant: it gets no gradient.
        weight (optional): w_i, one for each label, or one for each of the N items. Any numbers; they are not checked. A
            constant.

    Tops:
        loss (): E.
        prob (optional): the softmax of the scores, in their shape. It passes no gradient. Caffe wants a
            loss_weight for each top or for none: ``loss_weight: 1 loss_weight: 0``.

    Options (param_str):
        axis: the classes' axis, 1 by default; negative ones count from the end.
        ignore_label: the label of positions that do not count; none by default.
        class_weights: w_y, a list of C finite numbers; all 1 by default.
        normalization: what Z is. "VALID" (default): the number of labels that count. "FULL": the number of labels.
            "BATCH_SIZE": the product of the axes before `axis`. "NONE": 1. These four are Caffe's. They are at least 1,
            and do not depend on the weights. "WEIGHT_SUM": Σ w_y · w_i over the labels that count, for weights that are
            not negative; where that sum is 0, loss and gradient are 0.

    The gradient is g · w_y · w_i · (softmax(scores) − 1_y) / Z, where g is the loss weight; it is 0 where ignored. As
    with Caffe's layer the scores must be those of the last forward. Labels and weights are read again, so backward
    sees what they hold then; on the GPU Z is that of the last forward.

    On the GPU the layer does not wait for its kernels. So a wrong label raises its error at the layer's next call: as a
    rule in backward, at the latest in the next forward. Until then its position counts as ignored.

    Where a probability underflows, Caffe's loss saturates at −log(FLT_MIN) = 87.3365. This one gives the true loss.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "scores"  bottom: "label"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "WeightedSoftmaxLossLayer"  param_str: '{"class_weights": [1, 2.5, 0.5]}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer; a label is out of range, not
            whole, or NaN, in forward and backward.

    Sources: Caffe's softmax_loss_layer.cpp and infogain_loss_layer.cpp. "WEIGHT_SUM" is U-Net's and PyTorch's mean.
    """

    BOTTOMS = ("scores", "label")
    OPTIONAL_BOTTOMS = ("weight",)
    CONSTANTS = ("label", "weight")
    OPTIONAL_TOPS = ("prob",)
    OPTIONS = labels.OPTIONS
    KERNELS = Kernels(Path(__file__).with_name("kernels.cu"), labels.Z_KINDS)
    NEEDS_FORWARD = True  # for Z, for the peak and the total of each position, and since it checks every label

    @classmethod
    def classes_of_labels(cls, options, shape):
        """That of the scores."""
        return shape[options.axis]

    def setup(self, bottom, top):
        """Reads the options as `LossLayer` does, and loads the compiled loops where there is Numba."""
        super().setup(bottom, top)
        self._loops = loops.module(f"{__package__}.loops")
        self._wrong_label = None  # until the first launch
        self._alive = []  # keeps the memory whose addresses the launchers have

    def reshape(self, bottom, top):
        """Shapes the tops."""
        super().reshape(bottom, top)
        if len(top) > 1:
            top[1].reshape(*self.shapes[0])

    def check_shapes(self):
        """Checks the axis, and the numbers of labels and of weights."""
        self._shape_3d = outer, classes, inner = labels.check_labels(self)
        self.terms = counted_terms(self.options.normalization, outer, outer * inner)
        self._labels = labels.LabelReader(self, classes, (outer, inner), self.options.ignore_label)
        self._tiles = tiles_of(outer, inner, depth=classes + _BESIDE_SCORES)
        self._peak, self._others = np.empty((2, outer, inner), np.float32)

    def forward_cpu(self, bottom, top):
        """Returns E = 1/Z · Σ w ℓ, the tiles added in float64, and keeps the peak and the others of each position."""
        y, weight, z = self._read_labels(bottom)
        total = self._sum_losses(bottom, top, y, weight)
        return total / z if z else 0.0

    def _sum_losses(self, bottom, top, y, weight):
        prob = self._as_3d(top[1].data) if len(top) > 1 else None
        arrays = self._as_3d(bottom[0].data), y, weight, self._peak, self._others, prob
        work = self._loops.losses if self._loops else _losses_by_formula
        total = sum(map_tiles(lambda tile: work(*arrays, *tile), self._tiles))
        self.kept = self._peak, self._others
        return total

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """Writes g · w · (softmax(x) − 1_y) / Z, and 0 where ignored, from what forward kept for each position."""
        y, weight, z = self._read_labels(bottom)
        if self.kept is None:
            self._sum_losses(bottom, (), y, weight)
        scale = loss_weight / z if z else 0.0
        arrays = self._as_3d(bottom[0].data), y, weight, *self.kept, scale, self._as_3d(bottom[0].diff)
        work = self._loops.write_gradients if self._loops else _write_gradients_by_formula
        map_tiles(lambda tile: work(*arrays, *tile), self._tiles)

    @quietly
    def reference(self, bottoms):
        """Returns the loss and its gradients by the formula, in float64."""
        scores = self._as_3d(np.asarray(bottoms[0], np.float64))
        outer, classes, inner = self._shape_3d
        reader = labels.LabelReader(self, classes, (outer, inner), self.options.ignore_label)
        read = reader.read(np, *bottoms[1:])
        weight = np.where(read.y < 0, 0, 1 if read.weight is None else read.weight) / (self._normalizer(read) or np.inf)
        losses, peak, others = formula.losses(np, scores, read.y, np.float64)
        gradient = formula.gradient(np, scores, read.y, peak, others, weight, np.float64)
        loss = np.sum(weight * losses, where=read.y >= 0)
        return loss, [gradient.reshape(self.shapes[0]), None, None][: len(bottoms)]

    def plan(self, processors):
        """Gives each position a lane, whose rows share the classes."""
        outer, classes, inner = self._shape_3d
        positions = outer * inner
        rows = rows_of(positions, classes, inner, processors)
        few_classes = classes <= CHUNK
        return Plan(
            tiles=math.ceil(positions * rows / THREADS),
            macros={"WIDE": wide(self.shapes), "CLASSES": classes if few_classes else 0},
            fields={
                **fields_of(outer, inner, rows),
                "classes": classes,
                "per_weight": positions // math.prod(self.shapes[2]) if len(self.shapes) > 2 else 1,
                "ignore_label": math.nan if self.options.ignore_label is None else self.options.ignore_label,
            },
            kept=0 if few_classes else 2 * positions,
        )

    def numbers(self, kernel, bottom):
        """How the kernel forward finds Z. Over several processes it is given, and waits for the labels to be read."""
        if kernel == "backward":
            return {}
        if self.terms:
            z = self.divisor(self.terms)
        elif not self.is_shared():
            return {"normalization": labels.Z_KINDS[f"Z_{self.options.normalization}"]}
        else:
            backend = gpu.backend
            with backend.arrays_beside(bottom[0]):
                z = self._normalizer(self._labels.read(backend.cupy, *map(backend.data, bottom[1:])))
        return {"normalization": labels.Z_KINDS["Z_CONSTANT"], "normalizer": z}

    def constant_pointers(self):
        """The addresses of the class weights, and of the struct in which the kernels report a wrong label."""
        backend = gpu.backend
        if self._wrong_label is None:
            struct = self.KERNELS.struct("WrongLabel")
            self._alive.append(backend.shared_memory(ctypes.sizeof(struct)))
            self._wrong_label = struct.from_address(self._alive[0].ptr)
        pointers = {"wrong": ctypes.addressof(self._wrong_label)}
        if self.options.class_weights is not None:
            self._alive.append(backend.array(self.options.class_weights))
            pointers["class_weights"] = self._alive[-1].data.ptr
        return pointers

    def before_launch(self):
        """Raises ValueError for a wrong label that a kernel has reported by now."""
        if self._wrong_label is None or not self._wrong_label.number:
            return
        gpu.backend.wait()  # a kernel that still runs might report the same label again
        number, value = self._wrong_label.number, self._wrong_label.value
        self._wrong_label.number = 0
        for launcher in self.launchers():
            launcher.clear("reported")  # the next one that backward finds is another
        self._labels.fail(value, number - 1)

    def _as_3d(self, array):
        """An array in the shape of the scores as (outer, C, inner)."""
        return array.reshape(self._shape_3d)

    def _read_labels(self, bottom):
        """The labels' classes, their weights, and Z."""
        read = self._labels.read(np, *[blob.data for blob in bottom[1:]])
        return read.y, read.weight, self._normalizer(read)

    def _normalizer(self, read):
        outer, _, inner = self._shape_3d
        return self.divisor(
            counted_terms(self.options.normalization, outer, outer * inner, read.valid, read.weight_sum)
        )


@quietly
def _losses_by_formula(scores, y, weight, peak, others, prob, *tile):
    """Does what `losses` in loops.py does, on one tile, by the formula."""
    scores, y, weight, peak, others, prob = cut(tile, scores, y, weight, peak, others, prob)
    losses, peak[...], others[...] = formula.losses(np, scores, y, np.float32)
    if prob is not None:
        prob[...] = formula.probabilities(np, scores, y, peak, others, np.float32)
    weighted = losses if weight is None else losses * weight
    return float(np.sum(weighted, where=y >= 0, dtype=np.float64))


@quietly
def _write_gradients_by_formula(scores, y, weight, peak, others, scale, diff, *tile):
    """Does what `write_gradients` in loops.py does, on one tile, by the formula."""
    scores, y, weight, peak, others, diff = cut(tile, scores, y, weight, peak, others, diff)
    scale = scale if weight is None else scale * weight
    diff[...] = formula.gradient(np, scores, y, peak, others, scale, np.float32)
