"""The loops over labels, compiled by Numba."""

import numpy as np

from pylayers.runtime.loops import compiled
from pylayers.runtime.prefetch import fetch

_RUN = 512  # labels that are read together


@compiled()
def _find_classes(label, classes, ignore, y):
    """Writes the classes of a run of labels. Counts labels that count, that are wrong, and classes that change.

    The loop has no branches, so that the compiler can vectorise it.
    """
    valid, wrong, changed = np.int32(0), np.int32(0), np.int32(0)
    for i in range(label.size):
        inside = (label[i] >= 0) & (label[i] < classes)
        k = np.int32(label[i] if inside else label.dtype.type(0))
        is_class = inside & (label[i] == k)
        counts = is_class if ignore is None else label[i] != ignore
        k = k if counts else np.int32(-1)
        valid += np.int32(counts)
        wrong += np.int32(counts & (not is_class)) if ignore is not None else np.int32(not is_class)
        changed += np.int32(y[i] != k)
        y[i] = k
    return valid, wrong, changed


@compiled()
def _first_wrong(label, classes, ignore):
    for i in range(label.size):
        inside = 0 <= label[i] < classes and label[i] == np.floor(label[i])
        if not inside and (ignore is None or label[i] != ignore):
            return i
    return -1


@compiled()
def read_labels(label, classes, ignore, class_weights, weight, y, weights, begin, end):
    """Does what `pylayers.losses.labels.read_labels` does with NumPy."""
    valid, changed = 0, False
    for start in range(begin, end, _RUN):
        run = slice(start, min(start + _RUN, end))
        fetch(label, start + _RUN, _RUN)
        run_valid, wrong, run_changed = _find_classes(label[run], classes, ignore, y[run])
        if wrong:
            return 0, 0.0, True, start + _first_wrong(label[run], classes, ignore)
        valid, changed = valid + run_valid, changed or run_changed > 0
    weight_sum = 0.0
    if weights is not None:
        each = 1 if weight is None else label.size // weight.size
        for i in range(begin, end):
            w = 1.0 if class_weights is None else class_weights[max(y[i], 0)]
            if weight is not None:
                w *= weight[i // each]
            weights[i] = w
            weight_sum += w if y[i] >= 0 else 0.0
    return valid, weight_sum if weights is not None else float(valid), changed, -1


@compiled()
def _check_targets(target, ignore, counts):
    """Counts targets of a run that count, and that are wrong; writes which count. The loop has no branches either."""
    valid, wrong = np.int32(0), np.int32(0)
    for i in range(target.size):
        inside = (target[i] >= 0) & (target[i] <= 1)
        count = True if ignore is None else target[i] != ignore
        wrong += np.int32(count & (not inside))
        valid += np.int32(count)
        if counts is not None:
            counts[i] = count
    return valid, wrong


@compiled()
def read_targets(target, ignore, counts, begin, end):
    """Does what `pylayers.losses.labels.read_targets` does with NumPy."""
    valid = 0
    for start in range(begin, end, _RUN):
        run = slice(start, min(start + _RUN, end))
        fetch(target, start + _RUN, _RUN)
        run_valid, wrong = _check_targets(target[run], ignore, None if counts is None else counts[run])
        if wrong:
            for i in range(start, end):
                if not 0 <= target[i] <= 1 and (ignore is None or target[i] != ignore):
                    return 0, i
        valid += run_valid
    return valid, -1
