"""Z, what a loss is divided by: the option ``normalization``."""

from pylayers.layer import Terms
from pylayers.params import Choice

# Of a loss without labels.
OF_ELEMENTS = Choice("BATCH_SIZE", "FULL", "NONE")


def counted_terms(normalization, items, positions, valid=None, weight_sum=None):
    """What `LossLayer.divisor` makes Z of, as in Caffe's loss_layer.hpp and softmax_loss_layer.cpp; and "WEIGHT_SUM".

    Args:
        normalization: "VALID", "FULL", "BATCH_SIZE", "NONE" or "WEIGHT_SUM".
        items: the number of items; for a loss over classes the product of the axes before the classes' axis.
        positions: the number of terms of the loss, such as labels.
        valid: the number of those that count, where it is known: an int, or an array without axes.
        weight_sum: the sum of their weights, where it is known.

    Returns:
        `Terms`, so that Z is at least 1; but for "WEIGHT_SUM" the sum of the weights and nothing else. None where Z
        depends on `valid` or `weight_sum`, and that is None.

    >>> counted_terms("VALID", items=4, positions=8, valid=0)
    Terms(count=0)
    >>> counted_terms("BATCH_SIZE", items=4, positions=8)
    Terms(count=4)
    """
    if normalization == "WEIGHT_SUM":
        return weight_sum
    count = {"VALID": valid, "FULL": positions, "BATCH_SIZE": items, "NONE": 0}[normalization]
    return None if count is None else Terms(count)
