"""What backward must do beside the right derivatives. Each rule gives the sentences that say where it is broken."""

import numpy as np

from pylayers.gradient_check.subject import Subject

_SENTINEL = np.float32(12345.5)


def added(subject, gradients):
    """Bottoms whose diff depends on what was in it before backward."""
    subject.backward(prefill=_SENTINEL)
    return [
        f"{name}: backward adds to the diff, or leaves elements of it as they were; it must write each one"
        for name, gradient in gradients.items()
        if name.startswith("bottom") and not np.allclose(subject.diff(name), gradient, rtol=1e-3, atol=1e-3)
    ]


def not_scaled(subject, gradients):
    """Bottoms whose gradient is not twice as large where the tops' diff is; nothing else shows it where that is 1."""
    upstream = subject.upstream
    subject.upstream = [2 * v for v in upstream]
    subject.backward()
    subject.upstream = upstream
    return [
        f"{name}: twice the top's diff (for a loss: its loss weight) does not give twice the gradient"
        for name, gradient in gradients.items()
        if name.startswith("bottom")
        and not np.allclose(subject.diff(name), 2 * gradient, rtol=0, atol=1e-3 * np.abs(gradient).max())
    ]


def written_unasked(subject):
    """Bottoms whose diff changes although their propagate_down is false."""
    violations = []
    bottoms = [subject.values[name] for name in subject.values if name.startswith("bottom")]
    for index in subject.wanted if len(subject.wanted) > 1 else ():
        flags = [other in subject.wanted and other != index for other in range(len(bottoms))]
        other = Subject(subject.layer, bottoms, subject.wanted, subject.seed, subject.phase, flags)
        name = f"bottom[{index}]"
        between = other.backward(prefill=_SENTINEL)
        if (other.diff(name) != between[name]).any():
            violations.append(f"{name}: backward writes the diff although propagate_down[{index}] is false")
    return violations
