"""Facts about Caffe's own layers, taken from Caffe's source: one catalogue for all tools.

The functions take a layer as a LayerParameter. Nothing here needs Caffe.
"""

import math
from typing import NamedTuple

# They take or give indices and have no gradient. They end the process when Caffe asks for one, as with force_backward.
NO_BACKWARD = ("ArgMax", "Embed", "Threshold")
# Losses whose bottom 1 holds class labels.
LABEL_LOSSES = ("HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "SoftmaxWithLoss")
# Losses that end the process when Caffe asks for the gradient of bottom 1.
CONSTANT_TARGET_LOSSES = (*LABEL_LOSSES, "SigmoidCrossEntropyLoss")
# Other layers with bottoms that they give no gradient, or end the process for.
_CONSTANT_BOTTOMS = {
    "Accuracy": (0, 1),
    "BatchReindex": (1,),
    "ContrastiveLoss": (2,),
    "Crop": (1,),
    "InfogainLoss": (1, 2),
    "LSTM": (1,),
    "LSTMUnit": (2,),
    "RNN": (1,),
}
# Layers whose parameters are no solver's to change: they end the process for an lr_mult other than 0.
FIXED_PARAMETERS = ("BatchNorm",)
# Layers of a Caffe that is built with OpenCV.
WITH_OPENCV = ("ImageData", "VideoData", "WindowData")
# The kit's own layer for a type that forks of Caffe have.
FORK_LAYERS = {
    "SmoothL1Loss": "SmoothL1LossLayer",
    "HuberLoss": "SmoothL1LossLayer",
    "FocalLoss": "FocalLossLayer",
    "SoftmaxFocalLoss": "FocalLossLayer",
    "SoftmaxWithFocalLoss": "FocalLossLayer",
    "DiceLoss": "DiceLossLayer",
    "DiceCoefLoss": "DiceLossLayer",
    "TripletLoss": "TripletLossLayer",
    "L1Loss": "L1LossLayer",
    "WeightedSigmoidCrossEntropyLoss": "SigmoidCrossEntropyLossLayer",
    "SigmoidWeightedCrossEntropyLoss": "SigmoidCrossEntropyLossLayer",
    "WeightedSoftmaxLoss": "WeightedSoftmaxLossLayer",
    "WeightedSoftmaxWithLoss": "WeightedSoftmaxLossLayer",
    "SoftmaxWithWeightedLoss": "WeightedSoftmaxLossLayer",
    "SigmoidFocalLoss": "FocalLossLayer",
    "AbsLoss": "L1LossLayer",
}
# The param_str that goes with it.
FORK_LAYER_OPTIONS = {"SigmoidFocalLoss": '{"activation": "SIGMOID"}'}
# Blocks of options that forks have: the kit's layer, and its key for each of theirs that it has.
FORK_OPTIONS = {
    "smooth_l1_loss_param": ("SmoothL1LossLayer", {"sigma": "sigma"}),
    "triplet_loss_param": ("TripletLossLayer", {"margin": "margin"}),
    "focal_loss_param": ("FocalLossLayer", {"gamma": "gamma"}),
    "dice_loss_param": ("DiceLossLayer", {"smooth": "smooth"}),
    "l1_loss_param": ("L1LossLayer", {}),
    "huber_loss_param": ("SmoothL1LossLayer", {}),
}
# What Caffe 1.0 writes for a field of a fork or of another version.
FORK_FIELDS = {"param_str_": "param_str, as it is called today"}
# Fields by which forks weight the classes of SoftmaxWithLoss.
CLASS_WEIGHT_FIELDS = ("class_weighting", "weight_by_label_freqs", "class_weight", "class_loss_weights")

# The defaults of Caffe's own gradient checker, test_gradient_check_util.hpp; the kit's checker has the same.
GRADIENT_CHECKER = {"step": 1e-2, "threshold": 1e-3, "seed": 1701, "kink": 0.0, "kink_range": -1.0}


def loss_weights(layer):
    """The loss weights of a layer other than 0, a dict from top to weight. Caffe's own losses have 1 by default."""
    weights = list(layer.loss_weight)
    if not weights and layer.type.endswith("Loss"):
        weights = [1]
    return {top: weight for top, weight in zip(layer.top, weights) if weight}


def is_loss(layer):
    """Whether a layer has a loss weight other than 0. Caffe's own losses need no top: Caffe adds it."""
    return bool(loss_weights(layer)) or (not layer.top and layer.type.endswith("Loss") and not layer.loss_weight)


def classes_of_labels(layer, shape):
    """The number of classes that the labels in a layer's bottom 1 have.

    Args:
        layer: a LayerParameter of one of Caffe's own layers.
        shape: the shape of its bottom 0.

    Returns:
        The number, or None where bottom 1 holds no labels.
    """
    axes = {
        "SoftmaxWithLoss": layer.softmax_param.axis,
        "InfogainLoss": layer.infogain_loss_param.axis,
        "Accuracy": layer.accuracy_param.axis,
    }
    if layer.type in axes:
        return shape[axes[layer.type]]
    # The other losses take each element of an item for the score of a class.
    return math.prod(shape[1:]) if layer.type in LABEL_LOSSES else None


def constant_bottoms(layer, count):
    """The indices of the bottoms, of `count`, that a layer of Caffe's own gives no gradient."""
    if layer.type == "Filter":
        return [count - 1]
    known = _CONSTANT_BOTTOMS.get(layer.type, ())
    known += (0,) * (layer.type in NO_BACKWARD) + (1,) * (layer.type in CONSTANT_TARGET_LOSSES)
    return sorted({index for index in known if index < count})


class Range(NamedTuple):
    """Numbers from `low` to `high`."""

    low: float
    high: float


class Probabilities(NamedTuple):
    """Numbers above 0 whose sum along `axis` is 1."""

    axis: int


class Labels(NamedTuple):
    """Whole numbers from 0 to below `classes`; where `starts_at_0`, the first item is 0.

    The latter is for the sequence marks of a recurrent layer: a 1 there takes up where the last forward has left.
    """

    classes: int
    starts_at_0: bool = False


def domains(layer, shapes):
    """What the bottoms of a layer of Caffe's own may hold, where that is not any number.

    Args:
        layer: a LayerParameter.
        shapes: of its bottoms.

    Returns:
        A dict from index to `Range`, `Probabilities` or `Labels`.
    """
    found = {**_DOMAINS.get(layer.type, {}), **_domains_by_fields(layer, shapes)}
    if layer.type == "Filter":
        found[len(shapes) - 1] = Labels(2)
    return {index: domain for index, domain in found.items() if index < len(shapes)}


_DOMAINS = {
    "ContrastiveLoss": {2: Labels(2)},
    "LSTM": {1: Labels(2, starts_at_0=True)},
    "LSTMUnit": {2: Labels(2)},
    "MultinomialLogisticLoss": {0: Probabilities(1)},
    "RNN": {1: Labels(2, starts_at_0=True)},
    "SigmoidCrossEntropyLoss": {1: Range(0, 1)},
}


def _domains_by_fields(layer, shapes):
    """Those that depend on the layer's fields, and on the shape of its first bottom."""
    kind, shape, power = layer.type, shapes[0], layer.power_param
    if kind == "Log":
        return {0: _positive(layer.log_param.scale, layer.log_param.shift)}
    if kind == "Power" and (power.power < 0 or not power.power.is_integer()):
        return {0: _positive(power.scale, power.shift)}
    if kind == "ContrastiveLoss":
        return dict.fromkeys((0, 1), _near_margin(layer.contrastive_loss_param.margin, shape))
    if kind == "Embed":
        return {0: Labels(max(1, layer.embed_param.input_dim))}
    if kind == "BatchReindex":
        return {1: Labels(shape[0])}
    try:
        classes = classes_of_labels(layer, shape)
    except IndexError:  # there is no such axis: Caffe refuses the shape
        classes = None
    return {1: Labels(classes)} if classes else {}


def _positive(scale, shift):
    """Where shift + scale · x is from 1/2 to 2."""
    low, high = sorted((end - shift) / (scale or 1) for end in (0.5, 2))
    return Range(low, high)


def _near_margin(margin, shape):
    """Where about half of the distances lie within the margin: farther pairs have no gradient."""
    half = margin * math.sqrt(1.5 / math.prod(shape[1:]))
    return Range(-half, half)


def index_bottoms(layer, shapes):
    """The bottoms of a layer of Caffe's own that hold whole numbers and are no labels of `classes_of_labels`.

    Args:
        layer: a LayerParameter.
        shapes: a dict from blob to shape.

    Returns:
        A dict from the bottom's index to how many numbers there are, which begin with 0.
    """
    given = [shapes.get(blob) or (1,) for blob in layer.bottom]
    if not given or layer.type in (*LABEL_LOSSES, "Accuracy"):
        return {}
    return {index: found.classes for index, found in domains(layer, given).items() if isinstance(found, Labels)}


def ignore_label(layer):
    """The label that one of Caffe's own layers ignores, or None."""
    param = layer.accuracy_param if layer.type == "Accuracy" else layer.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None


def draws_at_random(layer, phase):
    """Whether one of Caffe's own layers that have bottoms draws random numbers; `phase` is "train" or "test"."""
    if phase != "train":
        return False
    if layer.type == "Dropout":
        return layer.dropout_param.dropout_ratio > 0
    return layer.type == "Pooling" and layer.pooling_param.pool == layer.pooling_param.STOCHASTIC


def parameters(layer):
    """How many parameters a layer of Caffe's own has; a Python layer does not say."""
    kinds = {
        "Convolution": 1 + layer.convolution_param.bias_term,
        "Deconvolution": 1 + layer.convolution_param.bias_term,
        "InnerProduct": 1 + layer.inner_product_param.bias_term,
        "Embed": 1 + layer.embed_param.bias_term,
        "Scale": (len(layer.bottom) == 1) + layer.scale_param.bias_term,
        "Bias": int(len(layer.bottom) == 1),
        "BatchNorm": 3,
        "PReLU": 1,
        "LSTM": 3,
        "RNN": 5,
        "Parameter": 1,
    }
    return kinds.get(layer.type, 0)


def learns(layer):
    """Whether a layer of Caffe's own has a parameter whose lr_mult is not 0; a Python layer does not say."""
    count, rates = parameters(layer), [spec.lr_mult for spec in layer.param]
    return any((rates + [1] * count)[:count])
