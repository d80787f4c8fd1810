"""Triplet loss: an anchor nearer to its positive than to its negative, by a margin (Schroff et al. 2015)."""

import math

import numpy as np

from pylayers.losses.looped import LoopedLossLayer
from pylayers.losses.normalization import counted_terms
from pylayers.params import Choice, Number
from pylayers.runtime.tiles import TILE, map_tiles, quietly, tiles


class TripletLossLayer(LoopedLossLayer):
    """Triplet loss, with squared distances.

        E = 1/(2Z) · Σ w · max(0, ‖anchor − positive‖² − ‖anchor − negative‖² + margin)

    Bottoms:
        anchor (N, ...): N items; the norms are over all axes but the first.
        positive: an item of the same kind for each anchor, in anchor's shape.
        negative: an item of another kind for each anchor, in anchor's shape.
        weight (optional): w, one number for each triplet. Any numbers; they are not checked. A constant: it gets no
            gradient.

    Top:
        loss (): E.

    Options (param_str):
        margin: at least 0, 1 by default.
        normalization: what Z is. "BATCH_SIZE" (default): N. "ACTIVE": the number of triplets whose term is above 0, at
            least 1; for the gradient it is a constant.

    Where a term is above 0, the gradients are g · w / Z times negative − positive for anchor, positive − anchor for
    positive, and anchor − negative for negative; g is the loss weight. Else they are 0.

    Example:
        layer {
          name: "loss"  type: "Python"  bottom: "anchor"  bottom: "positive"  bottom: "negative"
          top: "loss"  loss_weight: 1  python_param {
            module: "pylayers"  layer: "TripletLossLayer"  param_str: '{"margin": 0.2}'
          }
        }

    Raises:
        ValueError: an option or the bottoms do not fit, when Caffe reshapes the layer.

    Sources: Schroff et al., "FaceNet" (CVPR 2015, arXiv 1503.03832), which has no ½ and no 1/N; these are as in Caffe's
    contrastive_loss_layer.cpp.
    """

    BOTTOMS = ("anchor", "positive", "negative")
    OPTIONAL_BOTTOMS = CONSTANTS = ("weight",)
    OPTIONS = {"margin": Number(1.0, minimum=0), "normalization": Choice("BATCH_SIZE", "ACTIVE")}
    LOOPS = "pylayers.losses.triplet.loops"

    def check_shapes(self):
        """Checks that the three have one shape, and that there is one weight for each triplet."""
        for index in (1, 2):
            self.check_same_shape(index, like=0)
        if len(self.shapes) > 3 and math.prod(self.shapes[3]) != self.shapes[0][0]:
            self.fail_bottom(3, f"{self.shapes[0][0]} weights, one for each triplet")

    @quietly
    def prepare(self, xp, anchor, positive, negative, weight=None):
        """Finds the terms, and Z."""
        blobs = [blob.reshape(len(anchor), -1) for blob in (anchor, positive, negative)]
        in_float32 = xp is np and anchor.dtype == np.float32
        terms = (self._terms_by_loops if self.loops and in_float32 else _terms)(*blobs) + self.options.margin
        active = ~(terms <= 0)  # and so NaN is
        weight = xp.where(active, 1.0 if weight is None else weight.reshape(-1), 0)
        # The triplets that count are what Caffe's "VALID" counts.
        normalization = "VALID" if self.options.normalization == "ACTIVE" else "BATCH_SIZE"
        return counted_terms(normalization, len(terms), len(terms), xp.count_nonzero(active)), (*blobs, terms, weight)

    @quietly
    def loss(self, xp, anchor, positive, negative, terms, weight):
        """½ Σ w · term, over those above 0."""
        return xp.sum(xp.where(weight == 0, 0, weight * terms)) / 2

    @quietly
    def gradients(self, xp, anchor, positive, negative, terms, weight):
        """Returns w (negative − positive), w (positive − anchor) and w (anchor − negative)."""
        weight, shape = weight.astype(anchor.dtype)[:, None], self.shapes[0]
        return [
            (weight * (first - second)).reshape(shape) for first, second in _differences(anchor, positive, negative)
        ]

    def loss_by_loops(self, *arguments):
        """The loss; the terms have come from loops."""
        return self.loss(np, *arguments)

    def write_by_loops(self, scale, diffs, anchor, positive, negative, terms, weight):
        """The gradients by one pass over memory each."""
        pairs = _differences(anchor, positive, negative)
        wanted = [(diff.reshape(anchor.shape), *pair) for diff, pair in zip(diffs, pairs) if diff is not None]

        def work(tile):
            for arrays in wanted:
                self.loops.write_differences(*arrays, weight, scale, *tile[:2])

        map_tiles(work, _tiles(anchor))

    def _terms_by_loops(self, anchor, positive, negative):
        terms = np.empty(len(anchor))
        arrays = terms, anchor, positive, negative
        map_tiles(lambda tile: self.loops.write_terms(*arrays, *tile[:2]), _tiles(anchor))
        return terms


def _differences(anchor, positive, negative):
    """Of what the gradients of the three are the difference."""
    return (negative, positive), (positive, anchor), (anchor, negative)


def _terms(anchor, positive, negative):
    """‖anchor − positive‖² − ‖anchor − negative‖², in float64."""
    anchor, positive, negative = (blob.astype("float64") for blob in (anchor, positive, negative))
    return ((negative - positive) * ((anchor - positive) + (anchor - negative))).sum(axis=1)


def _tiles(anchor):
    return tiles(len(anchor), 1, max(1, TILE // (3 * anchor.shape[1])))
