"""The loop over labels, compiled by Numba."""

import numpy as np

from pylayers.runtime.loops import compiled


@compiled()
def read_labels(label, classes, ignore, class_weights, weight, y, weights):
    """Does what `pylayers.losses.labels.read_labels` does with NumPy, but stops at the first wrong label."""
    valid, weight_sum, changed = 0, 0.0, False
    for i in range(label.size):
        k = np.int32(-1)
        if ignore is None or label[i] != ignore:
            if not (0 <= label[i] < classes and label[i] == np.floor(label[i])):
                return valid, weight_sum, changed, i
            k = np.int32(label[i])
            valid += 1
            if weights is not None:
                w = 1.0 if class_weights is None else class_weights[k]
                if weight is not None:
                    w *= weight[i // (label.size // weight.size)]
                weights[i] = w
                weight_sum += w
        changed |= y[i] != k
        y[i] = k
    return valid, weight_sum if weights is not None else float(valid), changed, -1
