"""Loss layers in Python for Caffe, by the names that a prototxt uses: ``module: "pylayers"``."""

from pylayers.channel_sum_euclidean_loss import ChannelSumEuclideanLossLayer
from pylayers.euclidean_loss import EuclideanLossLayer
from pylayers.weighted_softmax_loss import WeightedSoftmaxLossLayer

__all__ = ["ChannelSumEuclideanLossLayer", "EuclideanLossLayer", "WeightedSoftmaxLossLayer"]
