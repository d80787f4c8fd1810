"""The focal loss of each score for itself, ``activation: SIGMOID``. Scores, classes y and weights are vectors."""

from pylayers.losses.focal import formula
from pylayers.losses.looped import sum_elements, write_elements
from pylayers.runtime.tiles import TILE


def loss(xp, scores, y, weight, gamma):
    """Σ w q^γ ℓ over the scores that count."""
    terms, _ = formula.modulate(xp, *formula.of_sigmoid(xp, scores, y), gamma)
    terms = terms if weight is None else terms * weight
    return xp.sum(xp.where(y >= 0, terms, 0), dtype=xp.float64)


def gradient(xp, scores, y, weight, gamma):
    """Its gradient: dℓ/dx is q where y is 0, and −q where y is 1."""
    entropy, p, q = formula.of_sigmoid(xp, scores, y)
    _, factor = formula.modulate(xp, entropy, p, q, gamma)
    slopes = xp.where(y == 1, -q, q) * factor
    slopes = slopes if weight is None else slopes * weight
    return xp.where(y >= 0, slopes, 0)


def loss_by_loops(layer, scores, y, weight, gamma):
    """The loss by one pass over memory."""
    return sum_elements(lambda *parts: layer.loops.sigmoid_total(*parts, gamma), scores, y, weight, size=TILE // 4)


def write_by_loops(layer, scale, diff, scores, y, weight, gamma):
    """The gradient by one pass over memory."""

    def work(*parts):
        layer.loops.write_sigmoid_gradient(*parts, gamma, scale)

    write_elements(work, diff.reshape(-1), scores, y, weight, size=TILE // 4)
