"""The three losses and their gradients in float64, straight from the formulas; shares no code with the package.

Each function returns the loss and the gradients of its bottoms at loss weight 1. Slow and plain on purpose:
sums run over explicit positions where that keeps the formula in sight.
"""

import numpy as np


def euclidean(pred, target, weight=None, normalization="BATCH_SIZE"):
    residual = pred.astype(np.float64) - target.astype(np.float64).reshape(pred.shape)
    if weight is None:
        weight = np.ones(1)
    elif weight.size == pred.size:
        weight = weight.astype(np.float64).reshape(pred.shape)
    else:
        weight = weight.astype(np.float64).reshape(len(pred), *[1] * (pred.ndim - 1))
    z = {"BATCH_SIZE": len(pred), "FULL": pred.size, "NONE": 1}[normalization]
    gradient = weight * residual / z
    return np.sum(weight * residual**2) / 2 / z, gradient, -gradient.reshape(target.shape)


def channel_sum_euclidean(pred, target, axis=1, end_axis=1, normalization="BATCH_SIZE"):
    def summed(blob):
        return tuple(range(axis % blob.ndim, end_axis % blob.ndim + 1))

    residual = [blob.astype(np.float64).sum(axis=summed(blob), keepdims=True) for blob in (pred, target)]
    difference = residual[0] - residual[1].reshape(residual[0].shape)
    z = {"BATCH_SIZE": len(pred), "FULL": difference.size, "NONE": 1}[normalization]
    return (
        np.sum(difference**2) / 2 / z,
        np.broadcast_to(difference / z, pred.shape),
        np.broadcast_to(-difference.reshape(residual[1].shape) / z, target.shape),
    )


def weighted_softmax(scores, label, weight=None, axis=1, ignore_label=None, class_weights=None, normalization="VALID"):
    rows = np.moveaxis(scores.astype(np.float64), axis, -1)
    positions = list(np.ndindex(rows.shape[:-1]))
    labels = label.reshape(-1)
    if weight is None:
        weights = np.ones(labels.size)
    else:
        weights = np.repeat(weight.astype(np.float64).reshape(-1), labels.size // weight.size)
    loss = weight_sum = 0.0
    valid = 0
    gradient = np.zeros(rows.shape)
    for position, y, w in zip(positions, labels, weights):
        if ignore_label is not None and y == ignore_label:
            continue
        x = rows[position]
        y = int(y)
        w = w if class_weights is None else w * class_weights[y]
        log_sum = x.max() + np.log(np.sum(np.exp(x - x.max())))
        loss += w * (log_sum - x[y])
        gradient[position] = w * (np.exp(x - log_sum) - (np.arange(x.size) == y))
        weight_sum += w
        valid += 1
    z = {
        "VALID": max(1, valid),
        "FULL": max(1, labels.size),
        "BATCH_SIZE": max(1, int(np.prod(scores.shape[: axis % scores.ndim]))),
        "NONE": 1,
        "WEIGHT_SUM": weight_sum,
    }[normalization]
    factor = 1 / z if z else 0.0
    return loss * factor, np.moveaxis(gradient * factor, -1, axis)


def softmax(scores, axis=1):
    x = scores.astype(np.float64)
    exp = np.exp(x - x.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)
