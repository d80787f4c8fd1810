"""The formula of the smooth L1 loss: f(x) = (σx)²/2 where |x| < β, else |x| − β/2, with β = 1/σ².

``xp`` is NumPy or CuPy. With β = 0 it is the L1 loss, f(x) = |x|, and σ² is not used.
"""


def terms(xp, x, beta, square):
    """The values f(x); `square` is σ²."""
    size = xp.abs(x)
    if not beta:
        return size
    return xp.where(size < beta, x * x * (square / 2), size - beta / 2)


def slopes(xp, x, beta, square):
    """The slopes f′(x): σ²x between −1 and 1; for the L1 loss the sign of x."""
    return xp.clip(x * square, -1, 1) if beta else xp.sign(x)
