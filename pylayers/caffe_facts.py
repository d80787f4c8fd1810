"""What Caffe's own layers are like, as its source has it: one catalogue for all tools.

Layers are given as LayerParameters. Nothing here needs Caffe.
"""

import math

# They take or give indices and have no gradient. Asked for one, as force_backward does, they end the process.
NO_BACKWARD = ("ArgMax", "Embed", "Threshold")
# Losses whose bottom 1 holds class labels.
LABEL_LOSSES = ("HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "SoftmaxWithLoss")
# Losses that end the process where they are asked for the gradient of bottom 1.
CONSTANT_TARGET_LOSSES = (*LABEL_LOSSES, "SigmoidCrossEntropyLoss")
# Layers of a Caffe that is built with OpenCV.
WITH_OPENCV = ("ImageData", "VideoData", "WindowData")
# The kit's own layer for a type that forks of Caffe have. Not all of them need be there: `pylayers.__all__` says.
FORK_LAYERS = {
    "SmoothL1Loss": "SmoothL1LossLayer",
    "HuberLoss": "SmoothL1LossLayer",
    "FocalLoss": "FocalLossLayer",
    "SoftmaxFocalLoss": "FocalLossLayer",
    "SoftmaxWithFocalLoss": "FocalLossLayer",
    "DiceLoss": "DiceLossLayer",
    "DiceCoefLoss": "DiceLossLayer",
    "TripletLoss": "TripletLossLayer",
    "WeightedSoftmaxLoss": "WeightedSoftmaxLossLayer",
    "WeightedSoftmaxWithLoss": "WeightedSoftmaxLossLayer",
    "SoftmaxWithWeightedLoss": "WeightedSoftmaxLossLayer",
}
# What Caffe 1.0 writes for a field of a fork or of another version.
FORK_FIELDS = {"param_str_": "param_str, as it is called today"}
# Fields by which forks weight the classes of SoftmaxWithLoss.
CLASS_WEIGHT_FIELDS = ("class_weighting", "weight_by_label_freqs", "class_weight", "class_loss_weights")

# The defaults of Caffe's own gradient checker, test_gradient_check_util.hpp, which are the kit's too.
GRADIENT_CHECKER = {"step": 1e-2, "threshold": 1e-3, "seed": 1701, "kink": 0.0, "kink_range": -1.0}


def loss_weights(layer):
    """The loss weights of a layer other than 0, a dict from top to weight. Caffe's own losses have 1 by default."""
    weights = list(layer.loss_weight)
    if not weights and layer.type.endswith("Loss"):
        weights = [1]
    return {top: weight for top, weight in zip(layer.top, weights) if weight}


def is_loss(layer):
    """Whether a layer has a loss weight other than 0. A loss of Caffe's own needs no top, which Caffe then adds."""
    return bool(loss_weights(layer)) or (not layer.top and layer.type.endswith("Loss") and not layer.loss_weight)


def classes_of_labels(layer, shape):
    """The number of classes that the labels in a layer's bottom 1 have.

    Args:
        layer: of Caffe's own.
        shape: of its bottom 0.

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
    # The others take all that belongs to one item for its classes.
    return math.prod(shape[1:]) if layer.type in LABEL_LOSSES else None


def index_bottoms(layer, shapes):
    """The bottoms of a layer of Caffe's own that hold whole numbers and are no labels of `classes_of_labels`.

    Args:
        layer: the layer.
        shapes: a dict from blob to shape.

    Returns:
        A dict from the bottom's index to how many numbers there are, which begin with 0.
    """
    found = {
        "Embed": {0: layer.embed_param.input_dim},
        "BatchReindex": {1: (shapes.get(layer.bottom[0]) or (1,))[0] if layer.bottom else 1},
        "Filter": {len(layer.bottom) - 1: 2},
        "ContrastiveLoss": {2: 2},
        "LSTM": {1: 2},
        "RNN": {1: 2},
    }.get(layer.type, {})
    return {index: count for index, count in found.items() if index < len(layer.bottom) and count > 0}


def ignore_label(layer):
    """The label of positions that do not count in a layer of Caffe's own, or None."""
    param = layer.accuracy_param if layer.type == "Accuracy" else layer.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None


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
