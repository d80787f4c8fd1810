"""Python layers that know nothing of the kit, each a Euclidean loss with one of the usual mistakes."""

import caffe
import numpy as np


class RightLayer(caffe.Layer):
    """The loss without a mistake; the others change one line of it."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = np.sum((bottom[0].data - bottom[1].data) ** 2) / bottom[0].num / 2

    def gradient(self, top, bottom):
        return top[0].diff[0] * (bottom[0].data - bottom[1].data) / bottom[0].num

    def backward(self, top, propagate_down, bottom):
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = sign * self.gradient(top, bottom)


class WrongSignLayer(RightLayer):
    def gradient(self, top, bottom):
        return -super().gradient(top, bottom)


class NoLossWeightLayer(RightLayer):
    def gradient(self, top, bottom):
        return (bottom[0].data - bottom[1].data) / bottom[0].num


class NoDivisionLayer(RightLayer):
    def gradient(self, top, bottom):
        return top[0].diff[0] * (bottom[0].data - bottom[1].data)


class OneWrongElementLayer(RightLayer):
    def gradient(self, top, bottom):
        gradient = super().gradient(top, bottom)
        gradient[3, 7] *= 1.1
        return gradient


class NanLayer(RightLayer):
    def gradient(self, top, bottom):
        gradient = super().gradient(top, bottom)
        gradient[3, 2] = np.nan
        return gradient


class UnaskedLayer(RightLayer):
    def backward(self, top, propagate_down, bottom):
        super().backward(top, [True, True], bottom)


class AddedLayer(RightLayer):
    def backward(self, top, propagate_down, bottom):
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] += sign * self.gradient(top, bottom)


class AllConstantLayer(RightLayer):
    """A loss that declares each bottom a constant."""

    BOTTOMS = CONSTANTS = ("pred", "target")


class SteepLayer(RightLayer):
    """exp(3 pred), whose largest gradients have the wrong sign: few elements, but most of the gradient's norm."""

    def forward(self, bottom, top):
        top[0].data[...] = np.sum(np.exp(3 * bottom[0].data)) / 3 / bottom[0].num

    def backward(self, top, propagate_down, bottom):
        gradient = np.exp(3 * bottom[0].data) / bottom[0].num
        gradient[gradient > 0.5 * gradient.max()] *= -1
        bottom[0].diff[...] = top[0].diff * gradient


class BarrierLayer(RightLayer):
    """−log(1 − pred), NaN within two steps of the last element, where the gradient is wrong."""

    def forward(self, bottom, top):
        with np.errstate(all="ignore"):
            top[0].data[...] = -np.sum(np.log(1 - bottom[0].data))

    def backward(self, top, propagate_down, bottom):
        gradient = 1 / (1 - bottom[0].data)
        gradient[..., -1] *= 0.5
        bottom[0].diff[...] = top[0].diff * gradient
