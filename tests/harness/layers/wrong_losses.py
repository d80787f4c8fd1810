"""Python layers that know nothing of the kit, each a Euclidean loss with one of the usual mistakes."""

import random

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


class TwoMistakesLayer(RightLayer):
    """The sign, and no loss weight."""

    def gradient(self, top, bottom):
        return (bottom[1].data - bottom[0].data) / bottom[0].num


class NoHalfLayer(RightLayer):
    def forward(self, bottom, top):
        top[0].data[...] = np.sum((bottom[0].data - bottom[1].data) ** 2) / bottom[0].num


class NoTargetGradientLayer(RightLayer):
    """As most losses: the target gets no gradient, and its diff is left alone."""

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.gradient(top, bottom)


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


class NoiseLayer(WrongSignLayer):
    """A wrong sign, and noise that nobody can seed."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[...] += np.random.default_rng().normal()


class SeededDropoutLayer(RightLayer):
    """It leaves items out at random, by NumPy's and Python's own generators: repeatable once these are seeded."""

    def forward(self, bottom, top):
        self.kept = (np.random.random(bottom[0].data.shape) < 0.8) * random.random()
        top[0].data[...] = np.sum(self.kept * (bottom[0].data - bottom[1].data) ** 2) / bottom[0].num / 2

    def gradient(self, top, bottom):
        return self.kept * super().gradient(top, bottom)


class RoughLayer(WrongSignLayer):
    """A wrong sign, and a loss beside a number so large that float32 drops most of it."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[...] += 1e5


class RunningMeanLayer(caffe.Layer):
    """The distance to the mean of all items so far, which forward moves as it goes; by param_str in TRAIN alone."""

    def setup(self, bottom, top):
        self.mean = np.float32(0)

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.used = self.mean
        top[0].data[...] = np.sum((bottom[0].data - self.used) ** 2) / bottom[0].num / 2
        if self.param_str != "TRAIN" or self.phase == caffe.TRAIN:
            self.mean = self.moved(bottom[0].data)

    def moved(self, data):
        return 0.9 * self.mean + 0.1 * data.mean()

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff[0] * (bottom[0].data - self.used) / bottom[0].num


class LastSeenLayer(RunningMeanLayer):
    """The distance to the mean of the last batch: the same for the same batch twice, another after another batch."""

    def moved(self, data):
        return data.mean()


class InPlaceSoftmaxLayer(caffe.Layer):
    """Softmax loss for labels 0, whose gradient is right; it subtracts the largest score in Caffe's own memory."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        scores = bottom[0].data
        scores -= scores.max(axis=1, keepdims=True)
        exp = np.exp(scores)
        self.p = exp / exp.sum(axis=1, keepdims=True)
        top[0].data[...] = -np.log(self.p[:, 0]).sum() / len(scores)

    def backward(self, top, propagate_down, bottom):
        gradient = self.p.copy()
        gradient[:, 0] -= 1
        bottom[0].diff[...] = top[0].diff[0] * gradient / len(gradient)


class ReshapingLayer(RightLayer):
    """It flattens its first bottom itself, and not a view of its data."""

    def forward(self, bottom, top):
        bottom[0].reshape(bottom[0].num, bottom[0].count // bottom[0].num)
        self.residual = bottom[0].data - bottom[1].data.reshape(bottom[0].data.shape)
        top[0].data[...] = np.sum(self.residual**2) / 2

    def backward(self, top, propagate_down, bottom):
        for index, sign in ((0, 1), (1, -1)):
            if propagate_down[index]:
                bottom[index].diff[...] = (sign * top[0].diff[0] * self.residual).reshape(bottom[index].diff.shape)


class TwoTopsLayer(RightLayer):
    """A loss, and each item's own as a by-product."""

    def reshape(self, bottom, top):
        top[0].reshape(1)
        top[1].reshape(bottom[0].num)

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[1].data[...] = np.sum((bottom[0].data - bottom[1].data) ** 2, axis=1)


class RaisingLayer(RightLayer):
    """It prints, and fails inside NumPy."""

    def forward(self, bottom, top):
        print("Error: no error, but a print that looks like one")
        top[0].data[...] = self.product(bottom)

    def product(self, bottom):
        return np.dot(bottom[0].data, bottom[1].data)


class ProbabilityLayer(RightLayer):
    """−Σ log p: NaN for anything but probabilities."""

    def forward(self, bottom, top):
        sums = bottom[0].data.sum(axis=1)
        with np.errstate(all="ignore"):
            top[0].data[...] = -np.sum(np.log(bottom[0].data)) if np.allclose(sums, 1, atol=0.1) else np.nan

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = -top[0].diff[0] / bottom[0].data


class PrintingLayer(RightLayer):
    """It prints at each call, and counts its setups in the module's own list."""

    setups = []

    def setup(self, bottom, top):
        print("setup")
        self.setups.append(self)

    def forward(self, bottom, top):
        super().forward(bottom, top)
        print("loss", top[0].data)


class OverwritesLossWeightLayer(RightLayer):
    """Writes its top's diff in forward, as if the loss weight were its own; the gradient of the check is right."""

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].diff[...] = 1
