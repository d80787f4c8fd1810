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


def expand(weight, like):
    """Weights, one for each element or each item, in the shape of `like`; 1 where there are none."""
    if weight is None:
        return np.ones(like.shape)
    weight = np.asarray(weight, np.float64)
    if weight.size == like.size:
        return weight.reshape(like.shape)
    return np.broadcast_to(weight.reshape(len(like), *[1] * (like.ndim - 1)), like.shape)


def divisor(normalization, num, count, valid=None):
    return max(1, {"BATCH_SIZE": num, "FULL": count, "NONE": 1, "VALID": valid}[normalization])


def smooth_l1(pred, target, inside_weight=None, outside_weight=None, sigma=1.0, normalization="BATCH_SIZE"):
    inside, outside = expand(inside_weight, pred), expand(outside_weight, pred)
    x = inside * (pred.astype(np.float64) - target.astype(np.float64).reshape(pred.shape))
    near = np.abs(x) < 1 / sigma**2
    terms = np.where(near, (sigma * x) ** 2 / 2, np.abs(x) - 0.5 / sigma**2)
    z = divisor(normalization, len(pred), pred.size)
    gradient = outside * inside * np.where(near, sigma**2 * x, np.sign(x)) / z
    return np.sum(outside * terms) / z, gradient, -gradient.reshape(target.shape)


def l1(pred, target, weight=None, normalization="BATCH_SIZE"):
    residual = pred.astype(np.float64) - target.astype(np.float64).reshape(pred.shape)
    z = divisor(normalization, len(pred), pred.size)
    gradient = expand(weight, pred) * np.sign(residual) / z
    return np.sum(expand(weight, pred) * np.abs(residual)) / z, gradient, -gradient.reshape(target.shape)


def softplus(x):
    return np.logaddexp(0, x)


def per_channel(numbers, shape, axis):
    """Numbers, one or one for each channel along an axis, in a shape; 1 where there are none."""
    numbers = np.atleast_1d(np.asarray(1.0 if numbers is None else numbers))
    return np.moveaxis(np.broadcast_to(numbers, np.moveaxis(np.empty(shape), axis, -1).shape), -1, axis)


def sigmoid_cross_entropy(
    scores, target, weight=None, ignore_label=None, pos_weight=None, axis=1, normalization="BATCH_SIZE"
):
    x, t = scores.astype(np.float64), target.astype(np.float64).reshape(scores.shape)
    counts = np.ones(x.shape, bool) if ignore_label is None else t != ignore_label
    positive = per_channel(pos_weight, x.shape, axis) * t
    terms = positive * softplus(-x) + (1 - t) * softplus(x)
    slopes = (1 - t) * np.exp(-softplus(-x)) - positive * np.exp(-softplus(x))
    z = divisor(normalization, len(x), x.size, counts.sum())
    weight = np.where(counts, expand(weight, x), 0) / z
    return np.sum(weight * np.where(counts, terms, 0)), weight * np.where(counts, slopes, 0)


def focal_of(entropy, q, gamma):
    """The focal loss of a cross-entropy, and its derivative with respect to it; q is 1 − p."""
    if gamma == 0:
        return entropy, np.ones_like(entropy)
    ratio = np.divide(entropy, q, out=np.ones_like(q), where=q > 0)
    return q**gamma * entropy, q**gamma * (1 + gamma * (1 - q) * ratio)


def sigmoid_focal(
    scores, label, weight=None, gamma=2.0, ignore_label=None, pos_weight=None, axis=1, normalization="BATCH_SIZE"
):
    x, y = scores.astype(np.float64), label.reshape(scores.shape)
    counts = np.ones(x.shape, bool) if ignore_label is None else y != ignore_label
    z = np.where(y == 1, x, -x)
    q = np.exp(-softplus(z))
    terms, factor = focal_of(softplus(-z), q, gamma)
    weight = expand(weight, x) * np.where(y == 1, per_channel(pos_weight, x.shape, axis), 1)
    weight = np.where(counts, weight, 0) / divisor(normalization, len(x), x.size, counts.sum())
    return np.sum(weight * terms), weight * np.where(y == 1, -q, q) * factor


def softmax_focal(
    scores, label, weight=None, gamma=2.0, axis=1, ignore_label=None, class_weights=None, normalization="VALID"
):
    rows = np.moveaxis(scores.astype(np.float64), axis, -1)
    labels = label.reshape(-1)
    weights = np.repeat(1.0 if weight is None else weight, labels.size // (1 if weight is None else weight.size))
    loss = weight_sum = 0.0
    valid, gradient = 0, np.zeros(rows.shape)
    for position, y, w in zip(np.ndindex(rows.shape[:-1]), labels, weights):
        if y == ignore_label:
            continue
        x, y = rows[position], int(y)
        w = w if class_weights is None else w * class_weights[y]
        others = np.delete(x, y)
        log_others = np.logaddexp.reduce(others) if others.size else -np.inf
        entropy = np.logaddexp(0, log_others - x[y])  # −log p
        q = np.exp(log_others - np.logaddexp(log_others, x[y]))
        term, factor = focal_of(entropy, q, gamma)
        loss += w * term
        p = np.exp(x - np.logaddexp.reduce(x))
        p[y] = -q
        gradient[position] = w * factor * p
        weight_sum += w
        valid += 1
    z = (
        weight_sum
        if normalization == "WEIGHT_SUM"
        else divisor(normalization, int(np.prod(scores.shape[: axis % scores.ndim])), labels.size, valid)
    )
    factor = 1 / z if z else 0.0
    return loss * factor, np.moveaxis(gradient * factor, -1, axis)


def dice(
    scores,
    label,
    activation="SOFTMAX",
    exponent=2,
    smooth=1.0,
    per_item=False,
    ignore_label=None,
    axis=1,
    background=None,
):
    """The fractions straight from the formula in extended precision, where that keeps enough digits; and their rest.

    With t of 0 or 1, 1 − D is the sum of p^e + t − 2pt over that of p^e + t, plus s. Where t is 1 a term of the first
    is (1 − p)^e, and 1 − p is the sum of the other probabilities.
    """
    x = np.moveaxis(scores.astype(np.longdouble), axis, -1)
    classes = x.shape[-1]
    y = label.reshape(x.shape[:-1])
    counts = np.ones(y.shape, bool) if ignore_label is None else y != ignore_label
    t = (y[..., None] == (np.arange(classes) if classes > 1 else 1)) & counts[..., None]
    if activation == "SOFTMAX":
        p = np.exp(x - x.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        q = np.stack([np.delete(p, c, axis=-1).sum(-1) for c in range(classes)], axis=-1)
    elif activation == "SIGMOID":
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    else:
        p, q = x, 1 - x
    items = [slice(index, index + 1) for index in range(len(x))] if per_item else [slice(None)]
    wanted = [c for c in range(classes) if c != background]
    loss, slope = np.longdouble(0), np.zeros(x.shape, np.longdouble)
    for item in items:
        for c in wanted:
            here = t[item, ..., c][counts[item]]
            chosen, rest = p[item, ..., c][counts[item]], q[item, ..., c][counts[item]]
            above, below = 2 * chosen[here].sum() + smooth, (chosen**exponent).sum() + here.sum() + smooth
            if not below:
                continue
            share = (rest[here] ** exponent).sum() + (chosen[~here] ** exponent).sum()
            share /= below
            assert abs(1 - above / below - share) < 1e-15
            loss += share / len(wanted) / len(items)
            # −(2tB − (above) e p^(e−1)) / B², with above/B = 1 − share
            derivative = exponent * chosen ** (exponent - 1) * (1 - share) - 2 * here
            if exponent == 2:
                derivative = np.where(here, -2 * rest, 2 * chosen) - 2 * chosen * share
            part = slope[item, ..., c]
            part[counts[item]] = derivative / below / len(wanted) / len(items)
    if activation == "SOFTMAX":
        pairs = slope[..., :, None] - slope[..., None, :]  # p_j Σ_k p_k (g_j − g_k)
        slope = p * (p[..., None, :] * pairs).sum(-1)
    elif activation == "SIGMOID":
        slope = slope * p * q
    return float(loss), np.moveaxis(slope.astype(np.float64), -1, axis)


def triplet(anchor, positive, negative, weight=None, margin=1.0, normalization="BATCH_SIZE"):
    a, p, n = (blob.astype(np.float64).reshape(len(blob), -1) for blob in (anchor, positive, negative))
    terms = ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + margin
    active = terms > 0
    z = len(a) if normalization == "BATCH_SIZE" else max(1, active.sum())
    w = active * (1.0 if weight is None else weight.reshape(-1).astype(np.float64)) / z
    gradients = [w[:, None] * each for each in (n - p, p - a, a - n)]
    return np.sum(w * terms) / 2, *(gradient.reshape(anchor.shape) for gradient in gradients)
