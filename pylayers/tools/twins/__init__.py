"""Each loss of the kit as net text, and the same loss from Caffe's own layers: for compare --all and for bench."""

from pylayers.caffe_nets.text import input_text
from pylayers.tools.twins import elements, labels
from pylayers.tools.twins.case import Case, Pair, Twins

__all__ = ["PAIRS", "Case", "Pair", "Twins", "net_text"]

# What compare --all and bench run. Every compared case has at most 100,000 elements, standard normal as all inputs are
# but labels. Caffe sums its losses in float32, whose error grows with the number of terms. On larger blobs its own loss
# is off by more than 1e-6, and a difference would say nothing about the Python layer. Softmax losses, which Caffe adds
# one label after the other, have at most 300 labels for the same reason.
PAIRS = {**elements.PAIRS, **labels.PAIRS}


def net_text(case, folder, learnt=False):
    """The two nets of a case.

    Args:
        case: a `Case`.
        folder: a pathlib.Path for files that a net reads; it must still be there when the net is loaded.
        learnt: whether the first bottom gets a gradient without force_backward, as `input_text` arranges it.

    Returns:
        Prototxt texts: the Python net's and the built-in net's, None where there is none.
    """
    twins = PAIRS[case.pair].build(case, folder)
    first = next(iter(twins.bottoms))
    head = "".join(input_text(name, shape, learnt and name == first) for name, shape in twins.bottoms.items())
    return head + twins.python, None if twins.builtin is None else head + twins.builtin
