"""The likely cause of wrong derivatives: backward is 0, or the same multiple of forward everywhere."""

import itertools
import math
from typing import NamedTuple

import numpy as np

# Derivatives below this share of the largest one have no ratio that could be trusted.
_SMALL = 0.05
# How near to one another ratios count as the same, and how many of them must be; kinks may set some apart.
_SAME, _SHARE = 0.01, 0.9


class Factor(NamedTuple):
    """A factor that people forget, or have twice."""

    value: float
    symbol: str
    meaning: str


def factors(loss_weight, shape):
    """The factors of a layer, the likeliest first.

    Args:
        loss_weight: None where the layer is no loss.
        shape: of its first bottom.

    Returns:
        A list of `Factor`, none of them 1.
    """
    found = []
    if loss_weight:
        found += [
            Factor(1 / loss_weight, "1 / loss weight", "it ignores top[0].diff"),
            Factor(loss_weight, "loss weight", "it multiplies by top[0].diff twice"),
        ]
    num, count = shape[0], math.prod(shape)
    for size, name in ((num, "N"), (count, "count"), (2, "2")):
        found += [
            Factor(size, name, f"it lacks the 1/{name} that forward has"),
            Factor(1 / size, f"1/{name}", f"it has a 1/{name} that forward lacks"),
        ]
    return [factor for factor in found if factor.value != 1]


def zero(blob, bottom_names):
    """What to say of a blob whose gradient is 0 everywhere, such as "bottom[1]"; names may be known of few bottoms."""
    if not blob.startswith("bottom"):
        return "backward says 0 everywhere, or does not write the diff"
    index = int(blob[len("bottom[") : -1])
    name = bottom_names[index] if index < len(bottom_names) else blob
    return (
        "backward says 0 everywhere, or does not write the diff: "
        f"--constant {index} if {name} has no gradient (in Python, constants=[{index}])"
    )


def find(expected, numeric, known):
    """Says why derivatives are wrong.

    Args:
        expected: by backward, an array.
        numeric: by forward, an array.
        known: a list of `Factor`.

    Returns:
        A sentence, or "" where there is no such cause.
    """
    ratio = _ratio(expected, numeric)
    if ratio is None or abs(ratio - 1) < _SAME:
        return ""
    said = f"backward is {ratio:.3g} × forward everywhere".replace("-", "−")
    if abs(ratio + 1) < _SAME:
        return f"{said}: the sign"
    for sign, chosen in _products(known):
        value = sign * math.prod(factor.value for factor in chosen)
        if abs(ratio / value - 1) < _SAME:
            symbols = " · ".join(factor.symbol for factor in chosen)
            meanings = ["the sign"] * (sign < 0) + [factor.meaning for factor in chosen]
            return f"{said} = {'−' * (sign < 0)}{symbols}: {', and '.join(meanings)}"
    return said


def _ratio(expected, numeric):
    """The ratio of nearly all derivatives that are not small; None where they have no ratio in common."""
    sizes = [np.abs(values) / (np.abs(values).max() or 1) for values in (expected, numeric)]
    large = np.maximum(*sizes) > _SMALL
    if large.sum() < 3 or not expected.any():
        return None
    with np.errstate(divide="ignore"):
        ratios = expected[large] / numeric[large]
    middle = float(np.median(ratios))
    if not np.isfinite(middle) or np.mean(np.abs(ratios - middle) <= _SAME * abs(middle)) < _SHARE:
        return None
    return middle


def _products(known):
    """Signs with one or two factors, the simplest first."""
    pairs = [pair for pair in itertools.combinations(known, 2) if pair[0].value * pair[1].value != 1]
    for chosen in ([factor] for factor in known):
        yield 1, chosen
    for chosen in ([factor] for factor in known):
        yield -1, chosen
    for sign in (1, -1):
        for pair in pairs:
            yield sign, pair
