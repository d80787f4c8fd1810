"""The formula of the sigmoid cross-entropy loss: a · softplus(−x) + (1 − t) · softplus(x), with a = pos_weight · t.

``xp`` is NumPy or CuPy. softplus(x) = log(1 + exp(x)) = max(x, 0) + log(1 + exp(−|x|)), which cannot overflow.
"""


def terms(xp, x, positive, negative):
    """The loss of each element; `positive` is a, `negative` is 1 − t."""
    log = xp.log1p(xp.exp(-xp.abs(x)))
    return positive * (xp.maximum(-x, 0) + log) + negative * (xp.maximum(x, 0) + log)


def slopes(xp, x, positive, negative):
    """Its derivative, (1 − t) · sigmoid(x) − a · sigmoid(−x)."""
    larger, smaller = sigmoids(xp, x)
    up = x >= 0
    return negative * xp.where(up, larger, smaller) - positive * xp.where(up, smaller, larger)


def sigmoids(xp, x):
    """sigmoid(|x|) and sigmoid(−|x|), both with all their digits."""
    exp = xp.exp(-xp.abs(x))
    larger = 1 / (1 + exp)
    return larger, exp * larger
