"""One blob's derivatives: backward's against central differences of forward, by elements or along directions."""

from typing import NamedTuple

import numpy as np

from pylayers.gradient_check import cause, inputs
from pylayers.gradient_check.report import ALL_ZERO, BlobResult

# Blobs of up to this many elements are checked element by element, larger ones along random directions.
EXHAUSTIVE = 2000
DIRECTIONS = 20
# An element is at a kink if its gradient at a direction's two ends differs by more than this share of the largest one.
_LEAP = 0.03
# A direction is checked again without its kink elements only if the rest keeps this share of the gradient's norm.
_STEADY = 0.9
# Shorter steps, as shares of the step. They tell how far forward's derivative can be trusted.
_SHORTER = (3 / 4, 1 / 2, 1 / 3)
# What rounding and shorter steps may add to the tolerance, as a share of the largest derivative. The mistakes that
# people make are larger: a wrong sign is off by twice the derivative, a missing loss weight of 0.3 by 0.7 of what
# backward says, a missing factor of 2 by half. A forward that is known no better than this cannot rule them out.
_CEILING = 0.1


class Settings(NamedTuple):
    """How to check; see `pylayers.gradient_check.check_gradient`."""

    step: float
    threshold: float
    kink: float
    kink_range: float


class Row(NamedTuple):
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
        """The difference."""
        return abs(self.numeric - self.expected)


class Probe:
    """A blob of the subject, and derivatives of forward with respect to it."""

    def __init__(self, subject, name, gradient, step):
        self.subject, self.name, self.gradient = subject, name, gradient
        data = subject.values[name]
        self.size = step * (np.sqrt(np.mean(np.square(data, dtype=np.float64))) or 1.0)

    def central(self, place, signs, text, part=1):
        """A derivative by central difference, (f(x + size) − f(x − size)) / (2 size), with `part` of the step."""
        size = part * self.size
        (above, noise), (below, _) = self.objectives(place, (signs * size, -signs * size))
        expected = float(np.sum(self.gradient[place] * signs, dtype=np.float64))
        return Row(place, signs, text, expected, (above - below) / (2 * size), noise / size)

    def objectives(self, place, moves):
        """The objective and its rounding errors after each of the moves."""
        return self.subject.moved(self.name, place, moves, self.subject.objective)

    def gradients(self, place, moves):
        """The gradient by backward after each of the moves."""
        return self.subject.moved(self.name, place, moves, lambda: self.subject.gradient(self.name))


class Elements:
    """Each element by itself."""

    def __init__(self, probe, kinked, random):
        self.probe, self.kinked = probe, kinked

    def rows(self):
        """A row for each element."""
        for index in np.argwhere(~self.kinked):
            yield self.probe.central(tuple(index), 1.0, f"at {tuple(int(axis) for axis in index)}")

    def scale(self, rows):
        """What a difference is held against: the largest derivative."""
        return max(np.abs(self.probe.gradient).max(), *(abs(row.numeric) for row in rows))

    def beside_kink(self, row):
        """The derivative of forward to one side of an element: to that side which is nearer to backward's.

        Where a kink, or a bend such as Huber's, lies within a step to one side, the formula of second order for the
        other side, (−3 f(x) + 4 f(x + size) − f(x + 2 size)) / (2 size), does not see it. Where the slopes to both
        sides are nearly the same there is no kink, and the derivative stays what it was.
        """
        size = self.probe.size
        f, noise = zip(*self.probe.objectives(row.place, np.array([0, 1, 2, -1, -2]) * size))
        sides = ((-3 * f[0] + 4 * f[1] - f[2]) / (2 * size), (3 * f[0] - 4 * f[3] + f[4]) / (2 * size))
        if abs((f[1] - f[0]) - (f[0] - f[3])) < row.error * size or not np.isfinite(sides).all():
            return row
        numeric = min(sides, key=lambda side: abs(side - row.expected))
        text = f"{row.text}, to one side of a kink"
        return row._replace(numeric=numeric, noise=4 * noise[0] / size, text=text, beside=True)


class Directions:
    """All elements at once, each a step up or down."""

    def __init__(self, probe, kinked, random):
        self.probe, self.kinked, self.random = probe, kinked, random

    def rows(self):
        """A row for each direction."""
        if self.kinked.all():
            return
        for number in range(DIRECTIONS):
            signs = self.random.choice([-1.0, 1.0], self.kinked.shape) * ~self.kinked
            yield self.probe.central(..., signs, f"along random direction {number}")

    def scale(self, rows):
        """What a difference is held against: a derivative along a direction is about the gradient's norm."""
        return np.linalg.norm(self.probe.gradient)

    def beside_kink(self, row):
        """The derivative along a direction, without the elements whose gradient leaps between its two ends."""
        gradient, move = self.probe.gradient, row.signs * self.probe.size
        above, below = self.probe.gradients(row.place, (move, -move))
        steady = np.abs(above - below) <= _LEAP * np.abs(gradient).max()
        if np.linalg.norm(gradient[steady]) < _STEADY * np.linalg.norm(gradient):
            return row
        text = f"{row.text} without the {int(np.sum(~steady))} elements at kinks"
        return self.probe.central(row.place, row.signs * steady, text)._replace(beside=True)


def check_blob(subject, name, gradient, settings, random):
    """Compares both derivatives of one blob.

    Args:
        subject: a `Subject`.
        name: of the blob, such as "bottom[0]".
        gradient: what backward says.
        settings: `Settings`.
        random: a generator, for directions.

    Returns:
        A `BlobResult`.
    """
    if not np.isfinite(gradient).all():
        position = tuple(int(axis) for axis in np.argwhere(~np.isfinite(gradient))[0])
        return BlobResult(name, gradient.size, 0, f"at {position}, backward says {gradient[position]}", np.inf, 0.0)
    kinked = np.abs(np.abs(subject.values[name]) - settings.kink) <= settings.kink_range
    probe = Probe(subject, name, gradient, settings.step)
    ways = (Elements if gradient.size <= EXHAUSTIVE else Directions)(probe, kinked, random)
    skipped, rows = int(kinked.sum()), []
    for row in ways.rows():
        rows.append(row)
        if not np.isfinite(row.numeric):
            return BlobResult(name, len(rows), 0, f"{row.text}, where forward is not finite", np.inf, 0.0)
    if not rows:
        return BlobResult(
            name, 0, skipped, "of none", np.inf, 0.0, unsure="all elements lie at the kink: nothing is checked"
        )
    if not gradient.any() and not any(row.numeric for row in rows):
        return BlobResult(name, len(rows), skipped, ALL_ZERO, 0.0, 0.0)
    return _judged(name, skipped, ways, rows, settings)


def _judged(name, skipped, ways, rows, settings):
    """The `BlobResult` of a blob's rows."""
    scale = ways.scale(rows)
    threshold, ceiling = settings.threshold * scale, _CEILING * scale
    rows = [closer(ways, row, threshold) for row in rows]

    def excess(row):
        return row.error - min(row.noise, ceiling)

    worst = max(rows, key=excess)
    unsure, beside = "", sum(row.beside for row in rows)
    if excess(worst) > threshold:
        if all(row.error <= threshold + row.noise for row in rows):
            unsure = (
                f"forward is too rough to tell: its derivative is known to {worst.noise:.2g}, "
                f"and the largest one is {scale:.2g}"
            )
    elif beside == len(rows) and isinstance(ways, Elements):
        unsure = "each element lies within a step of a kink, where the slope of either side passes: give other values"
    text = f"{worst.text}, where backward says {worst.expected:.6g} and forward {worst.numeric:.6g}"
    allowed = float(threshold + min(worst.noise, ceiling))
    result = BlobResult(name, len(rows), skipped, text, worst.error, allowed, beside, unsure)
    return result._replace(cause=_cause(rows, ways.probe)) if result.verdict == "WRONG" else result


def _cause(rows, probe):
    """Why the derivatives of a blob are wrong, as far as can be told; "" where not."""
    if not probe.gradient.any():
        return cause.zero(probe.name, inputs.bottom_names(probe.subject.layer))
    expected, numeric = (np.array([getattr(row, side) for row in rows]) for side in ("expected", "numeric"))
    return cause.find(expected, numeric, cause.factors(probe.subject.loss_weight, probe.subject.shape))


def closer(ways, row, threshold):
    """A row that is off by more than the threshold, looked at again: for kinks, then with shorter steps."""
    for look_again in (ways.beside_kink, lambda row: as_sure_as_shorter_steps(ways.probe, row)):
        if row.error > threshold + row.noise:
            row = look_again(row)
    return row


def as_sure_as_shorter_steps(probe, row):
    """Widens the tolerance of a row to twice the spread of the derivatives from shorter steps, or to the ceiling.

    An estimate that moves with the step cannot be trusted further. Rounding in long sums moves it, and so do more kinks
    than can be left out. What it may add has a ceiling, see `_CEILING`.
    """
    shorter = [probe.central(row.place, row.signs, "", part).numeric for part in _SHORTER]
    noise = 2 * float(np.ptp([row.numeric, *shorter]))
    if not row.noise < noise < np.inf:  # it is NaN where forward is not finite at a shorter step
        return row
    text = f"{row.text} (shorter steps give {min(shorter):.6g} to {max(shorter):.6g})"
    return row._replace(noise=noise, text=text)
