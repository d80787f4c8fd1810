"""The focal loss over classes, ``activation: SOFTMAX``.

Scores have the shape (outer, C, inner), classes y and weights (outer, inner). The gradient is that of the softmax loss,
with another weight for each position.
"""

import numpy as np

from pylayers.losses.focal import formula
from pylayers.losses.weighted_softmax import formula as softmax
from pylayers.runtime.tiles import map_tiles, tiles_of


def loss(xp, scores, y, weight, gamma):
    """Σ w q^γ ℓ over the positions that count."""
    entropy, p, q, *_ = formula.of_softmax(xp, scores, y)
    terms, _ = formula.modulate(xp, entropy, p, q, gamma)
    terms = terms if weight is None else terms * weight
    return xp.sum(xp.where(y >= 0, terms, 0), dtype=xp.float64)


def gradient(xp, scores, y, weight, gamma):
    """Its gradient."""
    entropy, p, q, peak, others = formula.of_softmax(xp, scores, y)
    _, factor = formula.modulate(xp, entropy, p, q, gamma)
    factor = factor if weight is None else factor * weight
    return softmax.gradient(xp, scores, y, peak, others, factor, scores.dtype.type)


def loss_by_loops(layer, scores, y, weight, gamma):
    """The loss by the softmax loss's loops; keeps the peak, the others and the factor of each position."""
    (peak, others), factor = np.empty((2, *y.shape), np.float32), np.empty(y.shape)

    def work(tile):
        layer.loops.losses(scores, y, None, peak, others, None, *tile)
        return layer.loops.softmax_total(scores, y, weight, peak, others, factor, gamma, *tile)

    total = sum(map_tiles(work, _tiles(scores)))
    layer.kept = peak, others, factor
    return total


def write_by_loops(layer, scale, diff, scores, y, weight, gamma):
    """The gradient by the softmax loss's loops."""
    if layer.kept is None:
        loss_by_loops(layer, scores, y, weight, gamma)
    peak, others, factor = layer.kept
    arrays = scores, y, factor if weight is None else factor * weight, peak, others, scale, diff.reshape(scores.shape)
    map_tiles(lambda tile: layer.loops.write_gradients(*arrays, *tile), _tiles(scores))


def _tiles(scores):
    outer, classes, inner = scores.shape
    return tiles_of(outer, inner, depth=classes)
