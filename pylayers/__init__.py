"""Loss layers in Python for Caffe, by the names that a prototxt uses: ``module: "pylayers"``."""

import importlib

__version__ = "0.1.0"

# The module of each layer, imported when first asked for: `pylayers doctor` runs where Caffe cannot be imported.
LAYER_MODULES = {
    "ChannelSumEuclideanLossLayer": "pylayers.losses.channel_sum_euclidean.layer",
    "DiceLossLayer": "pylayers.losses.dice.layer",
    "EuclideanLossLayer": "pylayers.losses.euclidean.layer",
    "FocalLossLayer": "pylayers.losses.focal.layer",
    "L1LossLayer": "pylayers.losses.l1",
    "SigmoidCrossEntropyLossLayer": "pylayers.losses.sigmoid_cross_entropy.layer",
    "SmoothL1LossLayer": "pylayers.losses.smooth_l1.layer",
    "TripletLossLayer": "pylayers.losses.triplet.layer",
    "WeightedSoftmaxLossLayer": "pylayers.losses.weighted_softmax.layer",
}
__all__ = list(LAYER_MODULES)


def __getattr__(name):
    if name not in LAYER_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(LAYER_MODULES[name]), name)
    return globals()[name]


def __dir__():
    return sorted({*globals(), *__all__})
