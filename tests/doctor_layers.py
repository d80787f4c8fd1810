"""Layers with the mistakes that `pylayers doctor` finds, and some without."""

import caffe
from user_losses import L1LossLayer

from pylayers.layer import LossLayer


class GoodLayer(caffe.Layer):
    """The names of the parameters are free, and so are more of them with a default."""

    def setup(self, bottoms, tops):
        pass

    def reshape(self, *blobs):
        blobs[1][0].reshape(1)

    def forward(self, b, t, more=0):
        pass

    def backward(self, top, prop_down, bottom):
        pass


class NoSetupLayer(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


class NoBackwardLayer(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        pass


class NoReshapeLayer(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


class NoForwardLayer(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def backward(self, top, propagate_down, bottom):
        pass


class SwappedBackwardLayer(GoodLayer):
    def backward(self, bottom, propagate_down, top):
        pass


class SwappedForwardLayer(GoodLayer):
    def forward(self, top, bottom):
        pass


class NoSelfLayer(GoodLayer):
    def setup(bottom, top):  # noqa: N805
        pass


class TwoParametersLayer(GoodLayer):
    def backward(self, top, propagate_down):
        pass


class NoFormulaLayer(LossLayer):
    def backward_cpu(self, loss_weight, propagate_down, bottom):
        pass


class SwappedFormulaLayer(L1LossLayer):
    def backward_cpu(self, bottom, propagate_down, loss_weight):
        pass


class OwnForwardLayer(NoFormulaLayer):
    """It needs no forward_cpu, since it does not call it."""

    def forward(self, bottom, top):
        top[0].data[...] = 0


class RaisingLayer(GoodLayer):
    def setup(self, bottom, top):
        raise RuntimeError("raised in setup")


class ChainingLayer(GoodLayer):
    def setup(self, bottom, top):
        try:
            {}["no such key"]
        except KeyError as error:
            raise RuntimeError("two lines:\nthe second") from error


class RaisingInitLayer(GoodLayer):
    def __init__(self, param):
        try:
            {}["no such key"]
        except KeyError as error:
            raise RuntimeError("raised in __init__") from error


class ExitingLayer(GoodLayer):
    def setup(self, bottom, top):
        raise SystemExit("enough")


class NoLayer:
    pass
