"""LossLayer: what every loss layer shares, so that a new loss is its formula and little else."""

import functools
import math
import warnings

try:
    import caffe
except ModuleNotFoundError as error:
    if error.name != "caffe":
        raise
    raise ModuleNotFoundError(
        "pylayers needs Caffe's Python module, which no package index has: run 'make' in a clone of "
        "pylayers to build it, or use the Python in which 'import caffe' works",
        name="caffe",
    ) from None
import numpy as np

from pylayers import params
from pylayers.runtime.gpu import on_gpu, shape_of


class LossLayer(caffe.Layer):
    """A scalar loss with its gradient. Subclasses say what they take and write the formula.

    A subclass sets the class attributes below, overrides `forward_cpu` and `backward_cpu`, and,
    where it has demands on shapes, `check_shapes`.

    The loss's gradient is scaled by the loss weight, which Caffe keeps in ``top[0].diff``:
    ``loss_weight`` of the prototxt for a loss at the end of the net, the gradient from above where
    another layer takes the loss as its bottom. `backward_cpu` is handed it as a number.

    Attributes:
        BOTTOMS: names of the bottoms, in order, such as ``("pred", "target")``.
        OPTIONAL_BOTTOMS: names of those that may follow.
        CONSTANTS: names of the bottoms without a gradient (labels, weights). Where Caffe asks for
            one all the same, as it does under ``force_backward: true``, the layer writes zeros.
        OPTIONAL_TOPS: names of tops that may follow the loss.
        OPTIONS: what ``param_str`` takes, a dict from key to one of the kinds in `pylayers.params`.
        options: the values, a namespace with one attribute per key of OPTIONS (set in `setup`).
        shapes: the bottoms' shapes, a list of tuples (set in `reshape`).
        kept: whatever a forward on the CPU likes to leave for backward; None after `reshape`, which Caffe calls
            before every forward, and so also where that forward failed or ran on the GPU.
    """

    BOTTOMS = ("pred", "target")
    OPTIONAL_BOTTOMS = ()
    CONSTANTS = ()
    OPTIONAL_TOPS = ()
    OPTIONS = {}
    _checked = None  # the shapes that passed

    def check_shapes(self):
        """Checks ``self.shapes`` where the loss has demands on them.

        Called before the first forward and wherever a bottom's shape has changed. `check_same_shape`,
        `check_same_count` and `check_weight` are of help; `fail_bottom` raises.
        """

    def forward_cpu(self, bottom, top):
        """Computes the loss from the bottoms' ``data`` (NumPy arrays), and writes any optional top.

        Returns:
            The loss, a number; the base class writes it to the first top.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method forward_cpu(self, bottom, top)")

    def backward_cpu(self, loss_weight, propagate_down, bottom):
        """Writes the gradient, times `loss_weight`, to the ``diff`` of each bottom that wants it.

        Args:
            loss_weight: float, any finite value, zero and negative included.
            propagate_down: one bool per bottom; False means: do not touch that bottom's ``diff``.
                False for the CONSTANTS, and at least one True.
            bottom: the blobs, as in `forward_cpu`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a method backward_cpu(self, loss_weight, propagate_down, bottom)"
        )

    def forward_gpu(self, bottom, top):
        """Computes the loss in GPU mode; as in Caffe, the CPU code where a subclass has no other."""
        _warn_of_cpu_code(type(self).__name__)
        self._forward_on_host(bottom, top)

    def backward_gpu(self, top, propagate_down, bottom):
        """Writes the gradients in GPU mode; as in Caffe, the CPU code where a subclass has no other."""
        self._backward_on_host(top, propagate_down, bottom)

    # What Caffe calls.

    def setup(self, bottom, top):
        """Checks the numbers of bottoms and tops, and CONSTANTS; reads param_str into ``self.options``."""
        unknown = [name for name in self.CONSTANTS if name not in self._bottom_names()]
        if unknown:
            self.fail(f"CONSTANTS has {unknown[0]!r}, which is none of its bottoms: {', '.join(self._bottom_names())}")
        self.check_number("bottom", bottom, self.BOTTOMS, self.OPTIONAL_BOTTOMS)
        names = self._bottom_names()[: len(bottom)]
        self._constants = [index for index, name in enumerate(names) if name in self.CONSTANTS]
        self.check_number("top", top, ("loss",), self.OPTIONAL_TOPS)
        try:
            self.options = params.parse(self.param_str, self.OPTIONS)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{type(self).__name__}: {error}") from None

    def reshape(self, bottom, top):
        """Gives the first top Caffe's shape of a loss, (), and checks the bottoms' shapes where they have changed.

        Raises:
            ValueError: a bottom is a scalar, is empty, or has another first dimension than the first one; or what
                `check_shapes` raises.
        """
        # Caffe calls this before every forward.
        self.kept = None
        shapes = [shape_of(blob) for blob in as_list(bottom)]
        if shapes != self._checked:
            self.shapes, self._checked = shapes, None
            for index, shape in enumerate(shapes):
                if not shape or 0 in shape:
                    self.fail_bottom(index, "at least one axis, and no axis of length 0")
                if shape[0] != shapes[0][0]:
                    self.fail_bottom(index, f"{shapes[0][0]} as its first dimension, as {self.name_bottom(0)} has")
            self.check_shapes()
            self._checked = shapes
        top[0].reshape()

    def forward(self, bottom, top):
        """Computes the loss on the device of Caffe's mode."""
        bottom, top = as_list(bottom), as_list(top)
        if on_gpu(top[0]):
            self.forward_gpu(bottom, top)
        else:
            self._forward_on_host(bottom, top)

    def backward(self, top, propagate_down, bottom):
        """Writes the gradients on the device of Caffe's mode."""
        bottom, top = as_list(bottom), as_list(top)
        if on_gpu(top[0]):
            self.backward_gpu(top, propagate_down, bottom)
        else:
            self._backward_on_host(top, propagate_down, bottom)

    def _forward_on_host(self, bottom, top):
        loss = self.forward_cpu(bottom, top)
        if type(loss) is not float:
            self._check_loss("forward_cpu", loss)
        top[0].data[...] = loss

    def _check_loss(self, method, loss):
        if loss is None or np.ndim(loss):  # NumPy would make NaN of None
            found = "None" if loss is None else f"an array of shape {np.shape(loss)}"
            raise TypeError(f"{type(self).__name__}: {method} must return the loss, one number; it returned {found}")

    def _backward_on_host(self, top, propagate_down, bottom):
        wanted = self._wanted(propagate_down, bottom, lambda blob: blob.diff.fill(0))
        if True in wanted:
            self.backward_cpu(float(top[0].diff), wanted, bottom)

    def _wanted(self, propagate_down, bottom, clear):
        """Clears the diff of the CONSTANTS that are asked for a gradient; says which bottoms get another one."""
        wanted = as_list(propagate_down)
        for index in self._constants:
            if wanted[index]:
                clear(bottom[index])
                wanted[index] = False
        return wanted

    # Errors, all with the class in front.

    def fail(self, message):
        """Raises ValueError with the layer's class before `message`."""
        raise ValueError(f"{type(self).__name__}: {message}")

    def fail_bottom(self, index, expected):
        """Raises ValueError for the shape of the bottom at `index`."""
        self.fail(f"{self.name_bottom(index)} has shape {self.shapes[index]}, expected {expected}")

    @classmethod
    def check_number(cls, kind, blobs, required, optional):
        """Raises ValueError where there are more or fewer `blobs` ("bottom" or "top") than names for them."""
        if not len(required) <= len(blobs) <= len(required) + len(optional):
            numbers = " or ".join(str(len(required) + more) for more in range(len(optional) + 1))
            names = ", ".join([*required, *(f"optional {name}" for name in optional)])
            raise ValueError(f"{cls.__name__}: takes {numbers} {kind}s ({names}), found {len(blobs)}")

    def name_bottom(self, index):
        """A bottom as error messages name it, such as ``bottom[1] (target)``."""
        return f"bottom[{index}] ({self._bottom_names()[index]})"

    def check_same_shape(self, index, like):
        """Checks that two bottoms have one shape, so that formulas over both need not care how NumPy broadcasts.

        Raises:
            ValueError: the bottom at `index` has another shape than the one at `like`.
        """
        if self.shapes[index] != self.shapes[like]:
            self.fail_bottom(index, f"{self.shapes[like]}, as {self.name_bottom(like)} has")

    def check_same_count(self, index, like):
        """Checks that two bottoms have the same number of elements; Caffe asks no more of a Euclidean loss.

        Raises:
            ValueError: the bottom at `index` has another number of elements than the one at `like`.
        """
        if math.prod(self.shapes[index]) != math.prod(self.shapes[like]):
            self.fail_bottom(index, f"as many elements as {self.name_bottom(like)}, whose shape is {self.shapes[like]}")

    def check_weight(self, index, like):
        """Checks the shape of a bottom that holds weights, if there is one at `index`.

        Raises:
            ValueError: it has neither one weight for each element of the bottom at `like` nor one for each
                item of the batch.
        """
        if index >= len(self.shapes):
            return
        count, num = math.prod(self.shapes[like]), self.shapes[like][0]
        if math.prod(self.shapes[index]) not in (count, num):
            self.fail_bottom(
                index,
                f"{count} weights, one for each element of {self.name_bottom(like)}, "
                f"or {num}, one for each item of the batch",
            )

    def _bottom_names(self):
        return self.BOTTOMS + self.OPTIONAL_BOTTOMS


def as_list(vector):
    """Caffe's vector as a list; the vector itself has a length and an index, but no iterator."""
    # Most have two items or one; the comprehension takes twice as long for them.
    if len(vector) == 2:
        return [vector[0], vector[1]]
    return [vector[0]] if len(vector) == 1 else [vector[index] for index in range(len(vector))]


def by_item(array):
    """A blob's array as a matrix with one row for each item of the batch, without a copy."""
    return array.reshape(array.shape[0], -1)


@functools.cache
def _warn_of_cpu_code(layer):
    """Warns once for each class: the cache is the memory of it."""
    warnings.warn(f"{layer} has no GPU code: in GPU mode it runs on the CPU", RuntimeWarning, stacklevel=4)
