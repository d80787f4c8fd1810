"""What forward and backward must do beside right derivatives.

Each rule gives the sentences that say where it is broken.
"""

import numpy as np

from pylayers.gradient_check.subject import NOISE

_SENTINEL = np.float32(12345.5)


def repeatable(subject, step):
    """Whether forward gives the same for the same values. Where it does not, differences of forward say nothing.

    Forward runs twice with the same values, then with others, a step away, and again with the same. The first shows
    random numbers, the second what a layer keeps from one forward to the next, such as a running mean.
    """
    same = "the same bottoms and parameters"
    first = _tops(subject)
    difference = _difference(first, _tops(subject))
    if difference:
        return [
            f"forward is not repeatable: with {same}, and Caffe's, NumPy's and Python's random generators seeded, it "
            f"gives {difference}. It draws from a generator of its own, or keeps state from the last forward; "
            "so differences of forward say nothing of backward"
        ]
    values = subject.values
    subject.values = {**values, **{name: _beside(values[name], step) for name in subject.checked}}
    try:
        subject.forward()
    finally:
        subject.values = values
    difference = _difference(first, _tops(subject))
    if difference:
        return [
            f"forward keeps state: with {same} it gives {difference} once it has seen others in between; "
            "so differences of forward say nothing of backward. "
            "Let it change its state in phase TRAIN alone, and check it in phase TEST"
        ]
    return []


def _tops(subject):
    return [top.copy() for top in subject.forward()]


def _beside(value, step):
    """Values about a step away, with another mean and another spread, as a state may be either."""
    size = step * np.sqrt(np.mean(np.square(value, dtype=np.float64)))
    return (value * (1 + step) + size).astype(np.float32)


def _difference(first, second):
    """Where two forwards differ by more than rounding, "top[0] = 1 and then 2"; None where they do not."""
    for index, (a, b) in enumerate(zip(first, second)):
        if a.shape != b.shape:
            return f"top[{index}] the shape {a.shape} and then {b.shape}"
        with np.errstate(invalid="ignore"):
            off = np.abs(a - b) > NOISE * np.max(np.abs(a), where=np.isfinite(a), initial=0)
        off |= np.isfinite(a) != np.isfinite(b)
        if off.any():
            position = tuple(int(axis) for axis in np.argwhere(off)[0])
            where = f" at {position}" if position else ""
            return f"top[{index}] = {a[position]:.6g}{where} and then {b[position]:.6g}"
    return None


def leaves_loss_weight(subject):
    """Tops whose diff a Python layer's forward changes. Caffe keeps the loss weight there, and writes it once."""
    if subject.layer.type != "Python":
        return []
    for top, v in zip(subject.tops, subject.upstream):
        subject.net.blobs[top].diff[...] = v
    subject.forward()
    return [
        f"top[{index}]: forward writes its diff, where Caffe keeps the loss weight; in a net that weight is then lost"
        for index, (top, v) in enumerate(zip(subject.tops, subject.upstream))
        if (subject.net.blobs[top].diff != np.float32(v)).any()
    ]


def in_place(subject):
    """Bottoms whose values or shape forward or backward changes. Other layers that read them then go wrong."""
    found = []
    bottoms = {name: value for name, value in subject.values.items() if name.startswith("bottom")}
    changed = set()
    for method, run in (("forward", subject.forward), ("backward", subject.backward)):
        run()
        for name in bottoms.keys() - changed:
            change = _change(bottoms[name], subject.data(name))
            if change:
                changed.add(name)
                found.append(f"{name}: {method} changes {change}")
    return sorted(found)


def _change(value, data):
    if data.shape != value.shape:
        return f"its shape, from {value.shape} to {data.shape}; other layers read it too: use data.reshape(...), a view"
    off = (data != value) & ~(np.isnan(data) & np.isnan(value))
    if not off.any():
        return None
    position = tuple(int(axis) for axis in np.argwhere(off)[0])
    return (
        f"its data, at {position} from {value[position]:.6g} to {data[position]:.6g}; other layers read them too: "
        "work on a copy, data.copy()"
    )


def added(subject, gradients):
    """Bottoms whose diff depends on what was in it before backward."""
    subject.backward(prefill=_SENTINEL)
    return [
        f"{name}: backward adds to the diff, or leaves elements of it as they were; it must write each one"
        for name, gradient in gradients.items()
        if not np.allclose(subject.diff(name), gradient, rtol=1e-3, atol=1e-3)
    ]


def not_scaled(subject, gradients):
    """Bottoms whose gradient does not double with the tops' diff. Where that diff is 1, nothing else shows it."""
    upstream = subject.upstream
    subject.upstream = [2 * v for v in upstream]
    subject.backward()
    subject.upstream = upstream
    return [
        f"{name}: twice the top's diff (for a loss: its loss weight) does not give twice the gradient"
        for name, gradient in gradients.items()
        if not np.allclose(subject.diff(name), 2 * gradient, rtol=0, atol=1e-3 * np.abs(gradient).max())
    ]


def written_unasked(subject, names):
    """Bottoms whose diff changes although their propagate_down is false, of those with these `names`.

    Caffe calls no backward where no bottom wants a gradient; so there must be two.
    """
    violations = []
    bottoms = [name for name in subject.values if name.startswith("bottom")]
    for name in names if len(names) > 1 else ():
        flags = [other in subject.checked and other != name for other in bottoms]
        before, after = subject.diff_with_flags(name, flags, prefill=_SENTINEL)
        if (before != after).any():
            violations.append(f"{name}: backward writes the diff although propagate_down{name[6:]} is false")
    return violations
