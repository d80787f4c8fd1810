"""Z, what a loss is divided by: the option ``normalization``."""

from pylayers.params import Choice

# Of a loss without labels.
OF_ELEMENTS = Choice("BATCH_SIZE", "FULL", "NONE")


def normalizer(normalization, items, positions, valid=None, weight_sum=None):
    """Z, as Caffe's loss_layer.hpp and softmax_loss_layer.cpp have it, and "WEIGHT_SUM".

    Args:
        normalization: "VALID", "FULL", "BATCH_SIZE", "NONE" or "WEIGHT_SUM".
        items: the number of items; for a loss over classes the product of the axes before the classes' axis.
        positions: the number of terms of the loss, such as labels.
        valid: the number of those that count, where it is known: an int, or an array without axes.
        weight_sum: the sum of their weights, where it is known.

    Returns:
        Z. It is at least 1, except for "WEIGHT_SUM", where it is the sum of the weights and nothing else. None where Z
        depends on `valid` or `weight_sum`, and that is None.

    >>> normalizer("VALID", items=4, positions=8, valid=0)
    1
    >>> normalizer("BATCH_SIZE", items=4, positions=8)
    4
    """
    if normalization == "VALID":
        return max(1, valid) if isinstance(valid, int) else None if valid is None else valid.clip(1)
    if normalization == "WEIGHT_SUM":
        return weight_sum
    return max(1, {"FULL": positions, "BATCH_SIZE": items, "NONE": 1}[normalization])
