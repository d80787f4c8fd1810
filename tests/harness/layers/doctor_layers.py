"""Layers with the mistakes that `pylayers doctor` finds, and some without."""

import caffe
from user_losses import ArrayL1LossLayer, L1LossLayer

from pylayers.array_layer import ArrayLossLayer
from pylayers.layer import LossLayer


class GoodLayer(caffe.Layer):
    """Parameters may have any names, and there may be more of them, with a default."""

    def setup(self, bottoms, tops):
        pass

    def reshape(self, *blobs):
        blobs[1][0].reshape(1)

    def forward(self, b, t, more=0):
        pass

    def backward(self, top, prop_down, bottom):
        pass


class TwoTopsLayer(GoodLayer):
    def reshape(self, bottom, top):
        top[0].reshape(1)
        top[1].reshape(1)


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


class NoGradientsLayer(ArrayLossLayer):
    def loss(self, xp, pred, target):
        return (pred - target).sum()


class NoLossLayer(ArrayLossLayer):
    def gradients(self, xp, pred, target):
        return pred, target


class SwappedLossLayer(ArrayL1LossLayer):
    def loss(self, pred, target, xp):
        return (pred - target).sum()


class NoXpLayer(ArrayL1LossLayer):
    def gradients(self, pred, target, weight=None):
        return pred, target


class NoTargetLayer(ArrayL1LossLayer):
    def gradients(self, xp, pred):
        return pred, pred


class FreeNamesLayer(ArrayLossLayer):
    def loss(self, np, a, b):
        return (a - b).sum()

    def gradients(self, *arrays):
        _, a, b = arrays
        return a * 0 + 1, b * 0 - 1


class WeightLayer(ArrayL1LossLayer):
    """Its loss takes the optional bottom, and cannot be called without it."""

    def loss(self, xp, pred, target, weight):
        return super().loss(xp, pred, target, weight)


class OwnArrayForwardLayer(NoLossLayer):
    """It needs no loss, since it does not call it."""

    def forward_cpu(self, bottom, top):
        return 0


class WrongShapesLayer(L1LossLayer):
    def check_shapes(self, one, two, three):
        pass


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


class UnweightedLayer(GoodLayer):
    """Its gradient lacks the loss weight."""

    def backward(self, top, propagate_down, bottom):
        if len(top) == 1 and top[0].data[0] > 0 and top[0].shape:
            for index in range(2):
                bottom[index].diff[...] = bottom[0].data - bottom[1].data


class ScalarUnweightedLayer(UnweightedLayer):
    def reshape(self, bottom, top):
        top[0].reshape()


class WeightedLayer(GoodLayer):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff[0] * bottom[0].data


class HelpedLayer(UnweightedLayer):
    """What a helper does is not seen."""

    def backward(self, top, propagate_down, bottom):
        self.help(top, bottom)

    def help(self, top, bottom):
        pass


class NothingWrittenLayer(GoodLayer):
    def backward(self, top, propagate_down, bottom):
        print("no gradient")


class UnweightedFormulaLayer(L1LossLayer):
    def backward_cpu(self, loss_weight, propagate_down, bottom):
        bottom[0].diff[...] = bottom[0].data


class OwnBackwardLayer(L1LossLayer):
    """It has the kit's base, and a backward of its own."""

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = bottom[0].data


class NoTopLayer(GoodLayer):
    """Looks at its bottom and makes nothing."""

    def reshape(self, *blobs):
        pass
