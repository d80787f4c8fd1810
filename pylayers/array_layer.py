"""ArrayLossLayer: a loss written once, as formulas over arrays, for the CPU and the GPU."""

import numpy as np

from pylayers.layer import LossLayer
from pylayers.runtime import gpu as blobs


class ArrayLossLayer(LossLayer):
    """A loss whose formulas are written over ``xp``: NumPy in CPU mode, CuPy in GPU mode.

    A subclass overrides `loss` and `gradients`, and needs no others of `LossLayer`'s methods. The loss weight,
    ``propagate_down`` and Caffe's memory are not its business; the class attributes, `options` and `shapes` are the
    same as those of `LossLayer`. On the GPU the arrays are Caffe's own memory, without a copy, and nothing waits for
    the GPU as long as the formulas turn no array into a Python number (no ``float(...)``, no ``if`` on values).
    """

    def loss(self, xp, *bottoms):
        """Computes the loss.

        Args:
            xp: the module `numpy` or `cupy`.
            *bottoms: the bottoms' data, float32 arrays of the bottoms' shapes. They are Caffe's: not to be written.

        Returns:
            The loss, a number or an array with one element and no axis. A sum of many float32 is best taken with
            ``dtype=xp.float64``.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(self, xp, {self._arguments()})")

    def gradients(self, xp, *bottoms):
        """Computes the gradient of the loss with respect to each bottom that is not one of CONSTANTS.

        Args:
            xp: as for `loss`.
            *bottoms: as for `loss`.

        Returns:
            One array for each of those bottoms, in their order, of the bottom's shape; or the array alone where there
            is one such bottom. Not yet times the loss weight.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method gradients(self, xp, {self._arguments()})")

    @staticmethod
    def spread(weight, like):
        """Weights, one for each element of `like` or one for each item, in a shape that multiplies `like`."""
        return weight.reshape(like.shape if weight.size == like.size else (len(like),) + (1,) * (like.ndim - 1))

    def forward_cpu(self, bottom, top):
        """The loss by NumPy."""
        loss = self.loss(np, *[blob.data for blob in bottom])
        self._check_loss("loss", loss)
        return loss

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """The gradients by NumPy, times the loss weight."""
        gradients = self._gradients(np, propagate_down, [blob.data for blob in bottom])
        for index, gradient in gradients.items():
            np.multiply(gradient, loss_weight, out=bottom[index].diff, casting="same_kind")

    def forward_gpu(self, bottom, top):
        """The loss by CuPy, on Caffe's own memory."""
        cupy = blobs.cupy_module()
        if cupy is None:
            self._forward_on_host(bottom, top)
            return
        with blobs.gpu_of(top[0]):
            loss = self.loss(cupy, *map(blobs.gpu_data, bottom))
            self._check_loss("loss", loss)
            blobs.gpu_data(top[0])[...] = loss

    def backward_gpu(self, top, propagate_down, bottom):
        """The gradients by CuPy, times the loss weight, which is read on the GPU."""
        cupy = blobs.cupy_module()
        if cupy is None:
            self._backward_on_host(top, propagate_down, bottom)
            return
        with blobs.gpu_of(top[0]):
            wanted = self._wanted(propagate_down, bottom, lambda blob: blobs.gpu_diff(blob).fill(0))
            if True not in wanted:
                return
            gradients = self._gradients(cupy, wanted, list(map(blobs.gpu_data, bottom)))
            for index, gradient in gradients.items():
                cupy.multiply(gradient, blobs.gpu_diff(top[0]), out=blobs.gpu_diff(bottom[index]))

    def _gradients(self, xp, wanted, data):
        """What `gradients` returns, by the index of the bottom, of the bottoms that want one."""
        names = self._bottom_names()[: len(data)]
        indices = [index for index, name in enumerate(names) if name not in self.CONSTANTS]
        found = self.gradients(xp, *data)
        if hasattr(found, "shape"):  # one array, not to be taken for a sequence of its rows
            found = [found]
        if found is not None:
            found = list(found)  # once, where it is a generator
        expected = [self.shapes[index] for index in indices]
        shapes = None if found is None else [np.shape(gradient) for gradient in found]
        if shapes != expected:
            raise TypeError(
                f"{type(self).__name__}: gradients must return one array for each of "
                f"{', '.join(self.name_bottom(index) for index in indices)}, of the shapes {expected}; "
                f"it returned {'None' if shapes is None else f'the shapes {shapes}'}"
            )
        return {index: gradient for index, gradient in zip(indices, found) if wanted[index]}

    def _arguments(self):
        return ", ".join(self._bottom_names())
