"""ArrayLossLayer: a loss written once, as formulas over arrays, for the CPU and the GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from pylayers.layer import LossLayer
from pylayers.runtime import gpu
from pylayers.runtime.tiles import quietly


class ArrayLossLayer(LossLayer):
    """A loss whose formulas are written over ``xp``: NumPy in CPU mode, CuPy in GPU mode.

    A subclass overrides `loss` and `gradients`, and needs no others of `LossLayer`'s methods. The base class applies
    the loss weight and ``propagate_down``, and reads and writes Caffe's memory. Class attributes, `options` and
    `shapes` are those of `LossLayer`. Where both formulas begin with the same work, or divide by the same Z, a subclass
    overrides `prepare` too. What `loss` leaves in ``self.kept``, `gradients` finds there; None where it must compute it
    again.

    The arrays are Caffe's own memory, without a copy. On the CPU they are read-only: a formula that writes to them ends
    in an error. On the GPU it would change the net, since CuPy has no read-only arrays. There nothing waits for the GPU
    as long as the formulas turn no array into a Python number: no ``float(...)``, and no ``if`` on values.

    Example:
        >>> from pylayers.array_layer import ArrayLossLayer
        >>> class LogCoshLossLayer(ArrayLossLayer):
        ...     def check_shapes(self):
        ...         self.check_same_shape(1, like=0)
        ...
        ...     def loss(self, xp, pred, target):
        ...         return xp.log(xp.cosh(pred - target)).sum(dtype=xp.float64) / len(pred)
        ...
        ...     def gradients(self, xp, pred, target):
        ...         gradient = xp.tanh(pred - target) / len(pred)
        ...         return gradient, -gradient
    """

    def prepare(self, xp: ModuleType, *bottoms: Any) -> tuple:
        """Finds what `loss` and `gradients` take, and Z. It is called before each of the two.

        Here is the place to check values, to read labels, and to reshape weights.

        Args:
            xp: the module `numpy` or `cupy`.
            *bottoms: the bottoms' data, float32 arrays of the bottoms' shapes. They are Caffe's: not to be written.

        Returns:
            Z, and a tuple of what `loss` and `gradients` are called with after `xp`. Z is a number, an array without
            axes, or `pylayers.layer.Terms` of one, which is at least 1. The base class divides both by it; where it is
            0, both are 0 unless they are not finite. Where several processes train, it adds up their Z first. By
            default Z is 1, and the tuple has the bottoms.
        """
        return 1, bottoms

    def loss(self, xp: ModuleType, *bottoms: Any) -> Any:
        """Computes the loss.

        Args:
            xp: the module `numpy` or `cupy`.
            *bottoms: the bottoms' data, or what `prepare` returned in their place.

        Returns:
            The loss, a number or an array with one element and no axis. A sum of many float32 is best taken with
            ``dtype=xp.float64``.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(self, xp, {self._arguments()})")

    def gradients(self, xp: ModuleType, *bottoms: Any) -> Any:
        """Computes the gradient of the loss with respect to each bottom that is not one of CONSTANTS.

        Args:
            xp: as for `loss`.
            *bottoms: as for `loss`.

        Returns:
            One array for each of those bottoms, in their order, of the bottom's shape; or the array alone where there
            is one such bottom. The base class multiplies it by the loss weight.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method gradients(self, xp, {self._arguments()})")

    @staticmethod
    def expand_weight(weight: Any, like: Any) -> Any:
        """Reshapes weights so that they multiply `like`.

        Args:
            weight: an array with one weight for each element of `like`, or one for each item of the batch.
            like: an array, its first axis the items.

        Returns:
            `weight` in the shape of `like`, or as (N, 1, ...).
        """
        return weight.reshape(like.shape if weight.size == like.size else (len(like),) + (1,) * (like.ndim - 1))

    def forward_cpu(self, bottom: list, top: list) -> Any:
        """The loss by NumPy."""
        with self._formula("loss"):
            scale, arguments = self.prepared(np, map(_read_only, bottom))
            loss = self.loss(np, *arguments)
        self.check_loss("loss", loss)
        return float(loss) * scale

    def backward_cpu(self, loss_weight: float, propagate_down: list, bottom: list) -> None:
        """The gradients by NumPy, times the loss weight."""
        with self._formula("gradients"):
            scale, arguments = self.prepared(np, map(_read_only, bottom))
            gradients = self._gradients(np, arguments, len(bottom))
        scale *= loss_weight
        for index, gradient in gradients.items():
            if propagate_down[index]:
                multiply(gradient, scale, bottom[index].diff)

    def forward_gpu(self, bottom: list, top: list) -> None:
        """The loss by CuPy, on Caffe's own memory."""
        backend = gpu.backend
        if backend.cupy is None:
            self.run_forward_cpu(bottom, top)
            return
        with backend.arrays_beside(top[0]):
            scale, arguments = self.prepared(backend.cupy, map(backend.data, bottom))
            loss = self.loss(backend.cupy, *arguments)
            self.check_loss("loss", loss)
            backend.data(top[0])[...] = loss * scale

    def backward_gpu(self, top: list, propagate_down: list, bottom: list) -> None:
        """The gradients by CuPy, times the loss weight, which is read on the GPU."""
        backend = gpu.backend
        if backend.cupy is None:
            self.run_backward_cpu(top, propagate_down, bottom)
            return
        with backend.arrays_beside(bottom[0]):
            wanted = self.wanted_gradients(propagate_down, bottom, backend.clear_diff)
            if True not in wanted:
                return
            scale, arguments = self.prepared(backend.cupy, map(backend.data, bottom))
            scale = (backend.diff(top[0]) * scale).astype(backend.cupy.float32)
            for index, gradient in self._gradients(backend.cupy, arguments, len(bottom)).items():
                if wanted[index]:
                    backend.cupy.multiply(gradient, scale, out=backend.diff(bottom[index]))

    def reference(self, bottoms: list) -> tuple:
        """The formulas over float64."""
        self.kept = None
        scale, arguments = self.prepared(np, [np.asarray(array, np.float64) for array in bottoms])
        gradients = self._gradients(np, arguments, len(bottoms))
        loss = float(self.loss(np, *arguments)) * scale
        self.kept = None  # of float64, and perhaps of other labels
        scaled = [multiply(gradients[index], scale) if index in gradients else None for index in range(len(bottoms))]
        return loss, scaled

    def prepared(self, xp: ModuleType, arrays: Iterable) -> tuple:
        """What `prepare` makes of the bottoms' arrays: 1/Z over all processes, 0 where Z is 0; and the arguments."""
        z, arguments = self.prepare(xp, *arrays)
        z = self.divisor(z)
        if isinstance(z, (int, float)):
            return (1 / float(z) if z else 0.0), arguments
        return xp.where(z == 0, 0, 1 / xp.where(z == 0, 1, z)), arguments

    def _gradients(self, xp, arguments, count):
        """What `gradients` returns for a layer of `count` bottoms, a dict from the index of the bottom."""
        names = self.bottom_names()[:count]
        indices = [index for index, name in enumerate(names) if name not in self.CONSTANTS]
        found = self.gradients(xp, *arguments)
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
        return dict(zip(indices, found))

    @contextlib.contextmanager
    def _formula(self, method):
        """Says what is wrong where a formula writes to a bottom; NumPy's own words do not tell whose array it is."""
        try:
            yield
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise ValueError(
                f"{type(self).__name__}: {method} writes to a bottom, which is Caffe's memory and read-only here; "
                f"compute a new array, such as x = x - 1 in place of x -= 1 (NumPy: {error})"
            ) from error

    def _arguments(self):
        return ", ".join(self.bottom_names())


@quietly
def multiply(gradient, scale, out=None):
    """A gradient times a number, written to `out` where that is given."""
    return np.multiply(gradient, scale, out=out, casting="same_kind")


def _read_only(blob):
    """A blob's data as an array that cannot be written to."""
    array = blob.data.view()
    array.flags.writeable = False
    return array
