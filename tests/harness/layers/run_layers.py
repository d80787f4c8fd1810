"""Layers whose mistakes a first run shows."""

import time

import caffe
import numpy as np


class SquareLayer(caffe.Layer):
    """Half the sum of squares, right; the others change one thing."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = np.square(bottom[0].data).sum() / 2

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff[0] * bottom[0].data


class RaisingForwardLayer(SquareLayer):
    def forward(self, bottom, top):
        np.dot(bottom[0].data, np.ones(99))


class RaisingBackwardLayer(SquareLayer):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.forgotten


class NanLayer(SquareLayer):
    def forward(self, bottom, top):
        top[0].data[0] = np.nan


class SilentLayer(SquareLayer):
    def forward(self, bottom, top):
        pass


class SubtractingLayer(SquareLayer):
    """It centres its bottom in place."""

    def forward(self, bottom, top):
        x = bottom[0].data
        x -= x.max()
        super().forward(bottom, top)


class NanGradientLayer(SquareLayer):
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = np.inf


class NoGradientLayer(SquareLayer):
    def backward(self, top, propagate_down, bottom):
        pass


class SlowLayer(SquareLayer):
    def forward(self, bottom, top):
        time.sleep(60)


class AbortingLayer(SquareLayer):
    def forward(self, bottom, top):
        import os

        os.abort()


class InPlaceLayer(SquareLayer):
    """Its top is its bottom."""

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        top[0].data[...] *= 2

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] *= 2
