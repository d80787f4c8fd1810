"""Proves a layer's gradient: backward against central differences of forward, on real Caffe.

It takes any layer: a Python layer, or one of Caffe's own. The layer alone is put into a net, with an Input for each
bottom, and Caffe itself runs that net.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_facts import GRADIENT_CHECKER, LABEL_LOSSES
from pylayers.errors import UserError
from pylayers.gradient_check.subject import Subject, layer_class

# Caffe's own gradient checker moves each value by 1e-2; here that is relative to the blob's root mean square. The
# threshold is a share of the blob's largest gradient. The difference quotient itself is off by about the step's square,
# 1e-4.
STEP, THRESHOLD = GRADIENT_CHECKER["step"], GRADIENT_CHECKER["threshold"]
# Blobs of up to this many elements are checked element by element, larger ones along random directions.
EXHAUSTIVE = 2000
DIRECTIONS = 20
# An element is at a kink if its gradient at a direction's two ends differs by more than this share of the largest one.
_LEAP = 0.03
# A direction is checked again without its kink elements only if the rest keeps this share of the gradient's norm.
_STEADY = 0.9
# Shorter steps, as shares of the step. They tell how far forward's derivative can be trusted.
_SHORTER = (3 / 4, 1 / 2, 1 / 3)
_SENTINEL = np.float32(12345.5)

# Stands in place of the worst element. Where it holds for every blob, nothing is proven.
ALL_ZERO = "where every derivative is 0"


class BlobResult(NamedTuple):
    """What was found for one bottom or parameter blob."""

    blob: str
    checked: int  # number of elements, or of directions
    skipped: int  # number of elements within `kink_range` of `kink`
    worst: str  # the worst element or direction, with both derivatives
    error: float  # the difference between its two derivatives
    tolerance: float  # what that difference may be
    beside: int = 0  # number of elements compared on one side of a kink, or of directions without the elements at kinks


class Report(NamedTuple):
    """All that was found: one result for each blob, and the rules of backward that are broken."""

    results: list
    violations: list

    @property
    def passed(self):
        """True if no derivative is off and no rule is broken."""
        return not self.violations and all(result.error <= result.tolerance for result in self.results)

    def __str__(self):
        lines = []
        for result in self.results:
            verdict = "ok" if result.error <= result.tolerance else "WRONG"
            kinks = f" ({result.beside} beside a kink)" if result.beside else ""
            kinks += f", {result.skipped} at a kink skipped" if result.skipped else ""
            lines.append(
                f"{verdict:5}  {result.blob}: {result.checked} checked{kinks}; largest difference {result.error:.2g} "
                f"(allowed {result.tolerance:.2g}) {result.worst}"
            )
        return "\n".join(lines + [f"WRONG  {violation}" for violation in self.violations])


class NothingToCheckError(ValueError):
    """No bottom and no parameter of the layer has a gradient, so there is nothing that could be right or wrong."""


def assert_gradient(layer: Union[str, caffe_pb2.LayerParameter], bottoms: Sequence, **options: Any) -> None:
    """Checks a layer's gradient in a user's own tests; see `check_gradient` for what is checked.

    Args:
        layer: as for `check_gradient`.
        bottoms: as for `check_gradient`.
        **options: as for `check_gradient`.

    Raises:
        AssertionError: a derivative is off or a rule is broken; the message is the whole report.
        ValueError: as `check_gradient`.
    """
    report = check_gradient(layer, bottoms, **options)
    assert report.passed, f"the gradient of {layer} is wrong:\n{report}"


def check_gradient(
    layer: Union[str, caffe_pb2.LayerParameter],
    bottoms: Sequence,
    *,
    labels: Optional[dict] = None,
    constants: Sequence[int] = (),
    loss_weight: Optional[float] = None,
    step: float = STEP,
    threshold: float = THRESHOLD,
    kink: float = GRADIENT_CHECKER["kink"],
    kink_range: float = GRADIENT_CHECKER["kink_range"],
    seed: int = GRADIENT_CHECKER["seed"],
    phase: int = caffe.TEST,
) -> Report:
    """Compares backward with central differences of forward.

    The objective is Σ v·top, where v is the tops' diff. It is `loss_weight` for a layer whose first top has one
    element, and random numbers for others, so that a layer which ignores its top's diff is found out.

    float32 limits what can be seen. A derivative may be off by `threshold` times the blob's largest one, plus the
    rounding error of the objective divided by the step. Where it is off by more, a step may have crossed a kink, as L1
    and Huber losses have. A small blob's element is then compared with the slope on one side of the kink; a large blob
    is compared without the elements whose gradient leaps. What is still off may be off by twice the spread of the
    derivatives from shorter steps.

    Beside the derivatives three rules of backward are checked. Twice the tops' diff must give twice the gradient.
    Backward must write a bottom's diff, and not add to it. Where propagate_down is false it must leave the diff alone;
    this is checked only if at least two bottoms have a gradient, since Caffe calls no backward otherwise.

    Args:
        layer: a LayerParameter, or its prototxt text from ``type:`` on; names of bottoms and tops do not matter.
        bottoms: for each bottom an array, or a shape, which is filled with normal random numbers.
        labels: dict from the index of a bottom to the number of its classes. The bottom is filled with random labels.
        constants: indices of more bottoms that have no gradient. Two kinds are known and need not be given: the
            CONSTANTS of a loss on the kit's base classes, and the labels of Caffe's own losses.
        loss_weight: the first top's diff where it has one element; 0.3 if not given.
        step: how far a value is moved, relative to the root mean square of its blob.
        threshold: how far a derivative may be off, as a share of the blob's largest one.
        kink: where forward may have a kink, as in Caffe's checker. An element is skipped if its abs(value) lies within
            `kink_range` of `kink`.
        kink_range: how near to `kink` elements are skipped; negative for no kink.
        seed: of all random numbers, the layer's own included.
        phase: caffe.TEST or caffe.TRAIN.

    Returns:
        A `Report`.

    Raises:
        ValueError: the text is no layer, an index is out of range, or (`NothingToCheckError`) there is no bottom with a
            gradient, and no parameter.
    """
    labels = labels or {}
    _check_indices(len(bottoms), labels, constants)
    layer = layer_parameter(layer)
    constants = {*constants, *_known_constants(layer, len(bottoms), labels)}
    random = np.random.default_rng(seed)
    values = [_values(index, bottom, labels, random) for index, bottom in enumerate(bottoms)]
    wanted = [index for index in range(len(bottoms)) if index not in labels and index not in constants]
    subject = Subject(layer, values, wanted, seed, phase)
    subject.draw_upstream(random, 0.3 if loss_weight is None else loss_weight)

    subject.backward(prefill=0)
    blobs = {f"bottom[{index}]": subject.bottom(index) for index in wanted}
    blobs.update({f"blobs[{index}]": blob for index, blob in enumerate(subject.params())})
    if not blobs:
        raise NothingToCheckError("nothing to check: each bottom is a label or a constant, and there is no parameter")
    gradients = {name: blob.diff.copy() for name, blob in blobs.items()}
    results = [
        _check_blob(name, blob, gradients[name], subject, step, threshold, (kink, kink_range), random)
        for name, blob in blobs.items()
    ]
    violations = _added(subject, wanted, gradients)
    if all(result.error <= result.tolerance for result in results):
        violations += _not_scaled(subject, wanted, gradients)
    violations += _written_unasked(layer, values, wanted, seed, phase)
    return Report(results, violations)


def _known_constants(layer, count, labels):
    """The indices of the label of one of Caffe's own losses, or of the CONSTANTS of a loss on the kit's base class."""
    if layer.type in LABEL_LOSSES:
        return [] if 1 in labels else [1]
    if layer.type != "Python":
        return []
    try:
        kind = layer_class(layer.python_param.module, layer.python_param.layer)
    except UserError:  # Caffe says why when it makes the layer
        return []
    names = (getattr(kind, "BOTTOMS", ()) + getattr(kind, "OPTIONAL_BOTTOMS", ()))[:count]
    return [index for index, name in enumerate(names) if name in getattr(kind, "CONSTANTS", ()) and index not in labels]


class _Row(NamedTuple):
    """An element or a direction, with both derivatives."""

    place: object  # the element's index, or ... for all of them
    signs: object  # how far each moves, in steps
    text: str
    expected: float  # the derivative by backward
    numeric: float  # the derivative by forward
    noise: float  # how far `numeric` may be off
    beside: bool = False  # whether it is compared beside a kink

    @property
    def error(self):
        return abs(self.numeric - self.expected)


def _check_blob(name, blob, gradient, subject, step, threshold, kink, random):
    data = blob.data
    if not np.isfinite(gradient).all():
        position = tuple(int(axis) for axis in np.argwhere(~np.isfinite(gradient))[0])
        return BlobResult(name, gradient.size, 0, f"at {position}, backward says {gradient[position]}", np.inf, 0.0)
    kinked = np.abs(np.abs(data) - kink[0]) <= kink[1]
    size = step * (np.sqrt(np.mean(np.square(data, dtype=np.float64))) or 1.0)
    exhaustive = data.size <= EXHAUSTIVE
    rows = []
    for direction in np.argwhere(~kinked) if exhaustive else range(DIRECTIONS):
        if exhaustive:
            place, signs, text = tuple(direction), 1.0, f"at {tuple(int(axis) for axis in direction)}"
        else:
            signs = random.choice([-1.0, 1.0], data.shape) * ~kinked
            place, text = ..., f"along random direction {direction}"
        rows.append(_central(blob, gradient, place, signs, text, size, subject))
        if not np.isfinite(rows[-1].numeric):
            return BlobResult(name, len(rows), 0, f"{text}, where forward is not finite", np.inf, 0.0)
    if not rows:
        return BlobResult(name, 0, int(kinked.sum()), "all elements lie at the kink: nothing is checked", np.inf, 0.0)
    if not gradient.any() and not any(row.numeric for row in rows):
        return BlobResult(name, len(rows), int(kinked.sum()), ALL_ZERO, 0.0, 0.0)
    scale = max(np.abs(gradient).max(), *(abs(row.numeric) for row in rows)) if exhaustive else np.linalg.norm(gradient)
    for index, row in enumerate(rows):
        if row.error > threshold * scale + row.noise:
            closer = _one_sided if exhaustive else _without_kinks
            row = closer(blob, gradient, row, size, subject)
            if row.error > threshold * scale + row.noise:
                row = _as_sure_as_shorter_steps(blob, gradient, row, size, subject)
            rows[index] = row
    worst = max(rows, key=lambda row: row.error - row.noise)
    text = f"{worst.text}, where backward says {worst.expected:.6g} and forward {worst.numeric:.6g}"
    beside = sum(row.beside for row in rows)
    allowed = float(threshold * scale + worst.noise)
    return BlobResult(name, len(rows), int(kinked.sum()), text, worst.error, allowed, beside)


def _central(blob, gradient, place, signs, text, size, subject):
    """A derivative by central difference, (f(x + size) − f(x − size)) / (2 size)."""
    move = signs * size
    (above, noise), (below, _) = subject.moved(blob, place, (move, -move), subject.objective)
    expected = float(np.sum(gradient[place] * signs, dtype=np.float64))
    return _Row(place, signs, text, expected, (above - below) / (2 * size), noise / size)


def _one_sided(blob, gradient, row, size, subject):
    """The derivative of forward to one side of an element: to that side which is nearer to backward's.

    Where a kink, or a bend such as Huber's, lies within a step to one side, the formula of second order for the other
    side, (−3 f(x) + 4 f(x + size) − f(x + 2 size)) / (2 size), does not see it. Where the slopes to both sides are
    nearly the same there is no kink, and the derivative stays what it was.
    """
    steps = np.array([0, 1, 2, -1, -2]) * size
    f, noise = zip(*subject.moved(blob, row.place, steps, subject.objective))
    sides = ((-3 * f[0] + 4 * f[1] - f[2]) / (2 * size), (3 * f[0] - 4 * f[3] + f[4]) / (2 * size))
    if abs((f[1] - f[0]) - (f[0] - f[3])) < row.error * size or not np.isfinite(sides).all():
        return row
    numeric = min(sides, key=lambda side: abs(side - row.expected))
    text = f"{row.text}, to one side of a kink"
    return row._replace(numeric=numeric, noise=4 * noise[0] / size, text=text, beside=True)


def _without_kinks(blob, gradient, row, size, subject):
    """The derivative along a direction, without the elements whose gradient leaps between its two ends."""
    move = row.signs * size
    above, below = subject.moved(blob, row.place, (move, -move), functools.partial(subject.gradient, blob))
    steady = np.abs(above - below) <= _LEAP * np.abs(gradient).max()
    if np.linalg.norm(gradient[steady]) < _STEADY * np.linalg.norm(gradient):
        return row
    text = f"{row.text} without the {int(np.sum(~steady))} elements at kinks"
    return _central(blob, gradient, row.place, row.signs * steady, text, size, subject)._replace(beside=True)


def _as_sure_as_shorter_steps(blob, gradient, row, size, subject):
    """Widens the tolerance of a row to twice the spread of the derivatives from shorter steps.

    An estimate that moves with the step cannot be trusted further. Rounding in long sums moves it, and so do more kinks
    than can be left out.
    """
    shorter = [_central(blob, gradient, row.place, row.signs, "", part * size, subject).numeric for part in _SHORTER]
    noise = 2 * float(np.ptp([row.numeric, *shorter]))
    if not row.noise < noise < np.inf:  # it is NaN where forward is not finite at a shorter step
        return row
    text = f"{row.text} (shorter steps give {min(shorter):.6g} to {max(shorter):.6g})"
    return row._replace(noise=noise, text=text)


def _added(subject, wanted, gradients):
    """Bottoms whose diff depends on what was in it before backward."""
    subject.backward(prefill=_SENTINEL)
    return [
        f"bottom[{index}]: backward adds to the diff, or leaves elements of it as they were; it must write each one"
        for index in wanted
        if not np.allclose(subject.bottom(index).diff, gradients[f"bottom[{index}]"], rtol=1e-3, atol=1e-3)
    ]


def _not_scaled(subject, wanted, gradients):
    """Bottoms whose gradient does not double with the tops' diff. Where that diff is 1, nothing else shows it."""
    upstream = subject.upstream
    subject.upstream = [2 * v for v in upstream]
    subject.backward(prefill=0)
    subject.upstream = upstream
    return [
        f"bottom[{index}]: twice the top's diff (for a loss: its loss weight) does not give twice the gradient"
        for index in wanted
        for gradient in [gradients[f"bottom[{index}]"]]
        if not np.allclose(subject.bottom(index).diff, 2 * gradient, rtol=0, atol=1e-3 * np.abs(gradient).max())
    ]


def _written_unasked(layer, values, wanted, seed, phase):
    """Bottoms whose diff changes although their propagate_down is false."""
    violations = []
    for index in wanted if len(wanted) > 1 else ():
        flags = [other in wanted and other != index for other in range(len(values))]
        subject = Subject(layer, values, wanted, seed, phase, flags)
        between = subject.backward(prefill=_SENTINEL)
        if (subject.bottom(index).diff != between[f"b{index}"]).any():
            violations.append(f"bottom[{index}]: backward writes the diff although propagate_down[{index}] is false")
    return violations


def _values(index, bottom, labels, random):
    if isinstance(bottom, np.ndarray):
        return bottom
    if index in labels:
        return random.integers(0, labels[index], bottom)
    return random.normal(size=bottom)


def layer_parameter(layer):
    """The LayerParameter that `layer` is, or whose prototxt text it is; ValueError where the text is no layer's."""
    if isinstance(layer, caffe_pb2.LayerParameter):
        return layer
    try:
        return text_format.Parse(layer, caffe_pb2.LayerParameter())
    except text_format.ParseError as error:
        raise ValueError(f"this is no layer's prototxt text ({error}): {layer!r}") from None


def _check_indices(count, labels, constants):
    for index in [*labels, *constants]:
        if not 0 <= index < count:
            raise ValueError(f"there is no bottom {index}; the layer has {count}, counted from 0")
