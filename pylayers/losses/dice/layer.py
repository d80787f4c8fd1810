"""Dice loss: one minus the overlap of each class with its label, for segmentation (Milletari et al. 2016)."""

import numpy as np

from pylayers.losses import labels
from pylayers.losses.dice import formula
from pylayers.losses.looped import LoopedLossLayer
from pylayers.params import Boolean, Choice, Integer, Number
from pylayers.runtime import reduction
from pylayers.runtime.tiles import map_tiles, quietly, tiles_of


class DiceLossLayer(LoopedLossLayer):
    """Dice loss: how little the probabilities of each class overlap with its label.

        E = 1 − 1/C · Σ_c D_c, D_c = (2 Σ p_c t_c + s) / (Σ p_c^e + Σ t_c^e + s)

    The sums run over the positions whose label counts: those of the whole batch, or with `per_item` those of each item,
    whose losses are then averaged. t_c is 1 where the label is c, else 0. A D_c of 0/0 is 1, with a gradient of 0.

    Bottoms:
        scores (N, ..., C, ...): before `activation`; C classes along `axis`.
        label: one whole number from 0 to C − 1, or `ignore_label`, for each position, which are those of scores without
            `axis`. Where C is 1, which SOFTMAX refuses, the label is t itself, 0 or 1. A constant: it gets no gradient.

    Top:
        loss (): E, from 0 to 1 where p is.

    Options (param_str):
        activation: what makes p of scores. "SOFTMAX" (default) along `axis`, "SIGMOID" for each score, "NONE": p is
            what the bottom holds.
        exponent: e, 2 (default) or 1.
        smooth: s, at least 0, 1 by default.
        per_item: false by default.
        ignore_label: the label of positions that do not count; none by default.
        axis: the axis of the classes, 1 by default; negative ones count from the end.
        background: a class that is left out of the mean; none by default.

    The gradient is g · dE/dp, taken back through the activation, where g is the loss weight. It is 0 where ignored. As
    with Caffe's layers the scores must be those of the last forward; labels are read again.

    In GPU mode a wrong label raises its error at the layer's next call, and counts as ignored until then.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "scores"  bottom: "label"  top: "loss"  loss_weight: 1
          python_param {
            module: "pylayers"  layer: "DiceLossLayer"  param_str: '{"ignore_label": 255}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer; a label is wrong, in forward and
            backward.

    Source: Milletari et al., "V-Net" (3DV 2016, arXiv 1606.04797). It has e = 2, one class, and no s.
    """

    BOTTOMS = ("scores", "label")
    CONSTANTS = ("label",)
    OPTIONS = {
        "activation": Choice("SOFTMAX", "SIGMOID", "NONE"),
        "exponent": Integer(2, minimum=1, maximum=2),
        "smooth": Number(1.0, minimum=0),
        "per_item": Boolean(False),
        "ignore_label": Integer(None),
        "axis": Integer(1),
        "background": Integer(None),
    }
    LOOPS = "pylayers.losses.dice.loops"

    @classmethod
    def classes_of_labels(cls, options, shape):
        """That of the scores, or 2 where they have one channel."""
        return max(2, shape[options.axis])

    def check_shapes(self):
        """Checks the axis, the number of classes and of labels, and background."""
        (_, classes, _), axis = labels.classes_axis(self)
        activation, background = self.options.activation, self.options.background
        if classes == 1 and activation == "SOFTMAX":
            self.fail_bottom(0, f'more than one class along axis {axis}, or "activation": "SIGMOID" in param_str')
        if background is not None and (classes == 1 or not 0 <= background < classes):
            wanted = f"from 0 to {classes - 1}" if classes > 1 else "left out, as there is one class"
            self.fail(f'param_str key "background" must be {wanted}, found {background}')
        if self.options.per_item and axis == 0:
            self.fail('param_str key "per_item" must be false where "axis" is 0, the axis of the items')
        outer, classes, inner = labels.check_labels(
            self, max(classes, 2), "; several labels at one position cannot be said"
        )
        items = self.shapes[0][0] if self.options.per_item else 1
        self._shape = items, outer // items, classes, inner
        shape = items, outer // items, inner
        self._labels = labels.LabelReader(self, max(classes, 2), shape, self.options.ignore_label)

    def prepare(self, xp, scores, label):
        """Reads the labels; Z is the number of classes in the mean, times that of the items."""
        items, _, classes, _ = self._shape
        z = items * (classes - (self.options.background is not None))
        return z, (scores.reshape(self._shape), self._labels.read(xp, label).y)

    @quietly
    def loss(self, xp, scores, y):
        """Σ (1 − D) over the classes, and over the items."""
        _, (lost, *_) = self._parts(xp, scores, y)
        return xp.sum(lost * self._in_mean(xp))

    @quietly
    def gradients(self, xp, scores, y):
        """Its gradient for the scores."""
        (p, r, t), fractions = self._parts(xp, scores, y)
        slopes = self._processes() * self._in_mean(xp) * formula.slopes(xp, p, r, t, self.options.exponent, *fractions)
        slopes = formula.through(xp, slopes, scores.astype(xp.float64), p, self.options.activation)
        return xp.where((y >= 0)[:, :, None], slopes, 0).reshape(self.shapes[0])

    def _parts(self, xp, scores, y):
        """p, r and t of each score; 1 − D, D and B of each class."""
        t = formula.targets(xp, y, self._shape[2])
        p, r = formula.probabilities(xp, scores.astype(xp.float64), y, t, self.options.activation)
        sums = formula.sums(xp, p, r, t, self.options.exponent)
        return (p, r, t), self._fractions(xp, sums)

    def _fractions(self, xp, sums):
        """1 − D, D and B of each class, from the sums of all processes where those are sums over the batch."""
        if not self.options.per_item:
            sums = xp.asarray(self.over_ranks(sums))
        return formula.fractions(xp, *sums, self.options.smooth)

    def _processes(self):
        """What makes of the mean of the processes' gradients their sum, where all have one loss, of all sums."""
        return reduction.ranks.count if self.is_shared() and not self.options.per_item else 1

    def _in_mean(self, xp):
        """1 for each class in the mean, and 0 for the background."""
        classes = xp.arange(self._shape[2])[:, None]
        return (classes != -1 if self.options.background is None else classes != self.options.background) * 1.0

    @quietly
    def loss_by_loops(self, scores, y):
        """The loss by one pass over memory; keeps the sums."""
        self.kept = self._sums_by_loops(scores, y)
        return np.sum(self._fractions(np, self.kept)[0] * self._in_mean(np)[:, 0])

    def _sums_by_loops(self, scores, y):
        x, y, rows, forms = self._for_loops(scores, y)
        add = self.loops.add_classes if self.options.activation == "SOFTMAX" else self.loops.add_scores

        def work(tile):
            first, last = tile[0] // rows, (tile[1] - 1) // rows
            found = np.zeros((3, last + 1 - first, x.shape[1]))
            add(x, y, *forms, found, first, rows, *tile)
            return first, found

        sums = np.zeros((3, self._shape[0], x.shape[1]))
        for first, found in map_tiles(work, self._tiles(x)):
            sums[:, first : first + found.shape[1]] += found
        return sums

    @quietly
    def write_by_loops(self, scale, diffs, scores, y):
        """The gradient by one pass over memory."""
        sums = self._sums_by_loops(scores, y) if self.kept is None else self.kept
        lost, kept, below = self._fractions(np, sums)
        x, y, rows, forms = self._for_loops(scores, y)
        is_copy = not np.may_share_memory(x, scores)
        out = np.empty_like(x) if is_copy else diffs[0].reshape(x.shape)
        arrays = x, y, *forms, lost, kept, self._processes() * scale * self._in_mean(np)[:, 0] / below, out, rows
        write = self.loops.write_classes if self.options.activation == "SOFTMAX" else self.loops.write_scores
        map_tiles(lambda tile: write(*arrays, *tile), self._tiles(x))
        if is_copy:
            diffs[0].reshape(out.shape[:0:-1])[...] = out[0].T

    def _for_loops(self, scores, y):
        """Scores as (outer, C, inner), classes as (outer, inner), the rows of an item, and which formula it is.

        The loops run along the inner axis. Where there is none the positions are made one, by a copy.
        """
        items, rows, classes, inner = self._shape
        square = self.options.exponent == 2
        forms = (square,) if self.options.activation == "SOFTMAX" else (self.options.activation == "SIGMOID", square)
        if inner == 1 and items == 1:
            return np.ascontiguousarray(scores.reshape(1, rows, classes).swapaxes(1, 2)), y.reshape(1, -1), 1, forms
        return scores.reshape(-1, classes, inner), y.reshape(-1, inner), rows, forms

    def _tiles(self, x):
        """Tiles of positions. A score takes longer with SOFTMAX, so that fewer of them are worth a thread."""
        outer, classes, inner = x.shape
        return tiles_of(outer, inner, depth=classes * (4 if self.options.activation == "SOFTMAX" else 1))
