"""The formulas of the three losses in float64, for `pylayers compare`: what a float32 result is held against.

Each function takes the bottoms' arrays and the layer's options (a namespace, as `LossLayer.options`) and
returns the loss and a list with the gradient of each bottom at loss weight 1, None for the constants.
"""

import numpy as np


def euclidean(bottoms, options):
    """E = 1/Z · Σ w (pred − target)² / 2."""
    pred, target = (_float64(bottom).reshape(len(bottom), -1) for bottom in bottoms[:2])
    # (N, K) or (N, 1): one weight for each element, or for each item.
    weight = _float64(bottoms[2]).reshape(len(pred), -1) if len(bottoms) > 2 else np.ones((1, 1))
    z = {"BATCH_SIZE": len(pred), "FULL": pred.size, "NONE": 1}[options.normalization]
    residual = pred - target
    gradient = weight * residual / z
    gradients = [gradient.reshape(bottoms[0].shape), -gradient.reshape(bottoms[1].shape)]
    return np.sum(weight * residual**2) / 2 / z, gradients + [None] * (len(bottoms) - 2)


def channel_sum_euclidean(bottoms, options):
    """E = 1/(2Z) · Σ (s(pred) − s(target))², s the sum over the axes from `axis` to `end_axis`."""
    end_axis = options.axis if options.end_axis is None else options.end_axis
    sums = [
        _float64(bottom).sum(axis=tuple(range(options.axis % bottom.ndim, end_axis % bottom.ndim + 1)), keepdims=True)
        for bottom in bottoms
    ]
    # The two may differ in the number of axes where `end_axis` counts from the end.
    residual = sums[0] - sums[1].reshape(sums[0].shape)
    z = {"BATCH_SIZE": len(residual), "FULL": residual.size, "NONE": 1}[options.normalization]
    gradients = [
        np.broadcast_to(sign * residual.reshape(total.shape) / z, bottom.shape)
        for sign, total, bottom in zip((1, -1), sums, bottoms)
    ]
    return np.sum(residual**2) / 2 / z, gradients


def weighted_softmax(bottoms, options):
    """E = 1/Z · Σ w_y w_i (logsumexp(scores) − scores_y) over the labels that are not ignored."""
    scores, label = _float64(bottoms[0]), bottoms[1].reshape(-1)
    by_class_last = np.moveaxis(scores, options.axis, -1)
    x = by_class_last.reshape(label.size, -1)
    used = np.full(label.shape, True) if options.ignore_label is None else label != options.ignore_label
    y = np.where(used, label, 0).astype(np.intp)
    weight = used.astype(np.float64)
    if options.class_weights is not None:
        weight *= np.take(options.class_weights, y)
    if len(bottoms) > 2:
        weight *= np.repeat(_float64(bottoms[2]).reshape(-1), label.size // bottoms[2].size)
    z = {
        "VALID": max(1, used.sum()),
        "FULL": label.size,
        "BATCH_SIZE": np.prod(scores.shape[: options.axis % scores.ndim], dtype=int),
        "NONE": 1,
        "WEIGHT_SUM": weight.sum() or np.inf,  # a sum of 0 makes loss and gradient 0
    }[options.normalization]
    shifted = x - x.max(axis=1, keepdims=True)
    log_prob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    position = np.arange(label.size)
    loss = -np.sum(weight * log_prob[position, y]) / z
    gradient = np.exp(log_prob)
    gradient[position, y] -= 1
    gradient *= (weight / z)[:, np.newaxis]
    gradient = np.moveaxis(gradient.reshape(by_class_last.shape), -1, options.axis)
    return loss, [gradient] + [None] * (len(bottoms) - 1)


# By the class that a prototxt names.
FORMULAS = {
    "EuclideanLossLayer": euclidean,
    "ChannelSumEuclideanLossLayer": channel_sum_euclidean,
    "WeightedSoftmaxLossLayer": weighted_softmax,
}


def _float64(array):
    return np.asarray(array, np.float64)
