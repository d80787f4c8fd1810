"""LossLayer: what every loss layer shares, so that a new loss is its formula and little else."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, NoReturn

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
from pylayers.runtime import gpu, reduction
from pylayers.runtime.blobs import as_list, shape_of

_FLT_MAX = float(np.finfo(np.float32).max)


class Terms(NamedTuple):
    """A number of terms that a loss is divided by: at least 1, which holds for the sum over all processes.

    Attributes:
        count: a number, or an array without axes.
    """

    count: Any


class LossLayer(caffe.Layer):
    """A scalar loss with its gradient. A subclass says what it takes, and writes the formula.

    A subclass sets the class attributes below and overrides `forward_cpu` and `backward_cpu`. Where the loss has
    demands on shapes it overrides `check_shapes`. Where it has code for the GPU it overrides `forward_gpu` and
    `backward_gpu`.

    Caffe keeps the loss weight in ``top[0].diff``, and the gradient is multiplied by it. For a loss at the end of the
    net it is the prototxt's ``loss_weight``. Where another layer takes the loss as its bottom, it is the gradient from
    above. `backward_cpu` is handed it as a number.

    Attributes:
        BOTTOMS: names of the bottoms, in order, such as ``("pred", "target")``.
        OPTIONAL_BOTTOMS: names of the bottoms that may follow.
        CONSTANTS: names of the bottoms without a gradient, such as labels and weights. Under ``force_backward: true``
            Caffe asks for their gradient all the same; the layer then writes zeros.
        OPTIONAL_TOPS: names of the tops that may follow the loss.
        OPTIONS: what ``param_str`` takes, a dict from key to one of the kinds in `pylayers.params`.
        options: the values, a namespace with one attribute for each key of OPTIONS (set in `setup`).
        shapes: the bottoms' shapes, a list of tuples (set in `reshape`).
        kept: what `forward_cpu` leaves for `backward_cpu`. `reshape`, which Caffe calls before every forward, resets
            it to None. If backward finds None, forward failed or ran on the GPU, and backward computes it again.

    Example, the sum of absolute differences:
        >>> import numpy as np
        >>> from pylayers.layer import LossLayer
        >>> class L1LossLayer(LossLayer):
        ...     def check_shapes(self):
        ...         self.check_same_shape(1, like=0)
        ...
        ...     def forward_cpu(self, bottom, top):
        ...         return np.abs(bottom[0].data - bottom[1].data).sum() / len(bottom[0].data)
        ...
        ...     def backward_cpu(self, loss_weight, propagate_down, bottom):
        ...         gradient = loss_weight * np.sign(bottom[0].data - bottom[1].data) / len(bottom[0].data)
        ...         for blob, sign, wanted in zip(bottom, (1, -1), propagate_down):
        ...             if wanted:
        ...                 blob.diff[...] = sign * gradient
    """

    BOTTOMS: Sequence[str] = ("pred", "target")
    OPTIONAL_BOTTOMS: Sequence[str] = ()
    CONSTANTS: Sequence[str] = ()
    OPTIONAL_TOPS: Sequence[str] = ()
    OPTIONS: dict = {}

    options: SimpleNamespace
    shapes: list
    kept: Any

    # What a subclass overrides.

    @classmethod
    def check_options(cls, options: SimpleNamespace) -> None:
        """Checks what options demand of each other, and fills in what one decides for another.

        Args:
            options: the values, each right by itself. They may be changed.

        Raises:
            ValueError: two of them do not go together.
        """

    def check_shapes(self) -> None:
        """Checks ``self.shapes`` where the loss has demands on them.

        It is called before the first forward, and wherever a bottom's shape has changed. `check_same_shape`,
        `check_same_count` and `check_weight` help; `fail_bottom` raises.
        """

    @classmethod
    def classes_of_labels(cls, options: SimpleNamespace, shape: tuple) -> int | None:
        """The number of classes that the labels in bottom 1 have; None where bottom 1 holds no labels.

        With it ``pylayers compare`` draws labels.

        Args:
            options: the values of the options.
            shape: of bottom 0.
        """
        return None

    def forward_cpu(self, bottom: list, top: list) -> float:
        """Computes the loss, and writes the optional tops.

        Args:
            bottom: the bottom blobs; ``bottom[0].data`` is a float32 array.
            top: the top blobs. The base class writes the loss to the first one.

        Returns:
            The loss, a number.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method forward_cpu(self, bottom, top)")

    def backward_cpu(self, loss_weight: float, propagate_down: list, bottom: list) -> None:
        """Writes the gradient, times `loss_weight`, to the ``diff`` of each bottom that wants it.

        Args:
            loss_weight: any finite number, zero and negative included.
            propagate_down: one bool for each bottom. Where it is False the bottom's ``diff`` is not to be touched. It
                is False for the CONSTANTS, and True for at least one bottom.
            bottom: the blobs, as in `forward_cpu`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} needs a method backward_cpu(self, loss_weight, propagate_down, bottom)"
        )

    def forward_gpu(self, bottom: list, top: list) -> None:
        """Computes the loss in GPU mode and writes the tops. As in Caffe, it is `forward_cpu` by default."""
        _warn_of_cpu_code(type(self).__name__)
        self.run_forward_cpu(bottom, top)

    def backward_gpu(self, top: list, propagate_down: list, bottom: list) -> None:
        """Writes the gradients in GPU mode. As in Caffe, it is `backward_cpu` by default."""
        self.run_backward_cpu(top, propagate_down, bottom)

    def reference(self, bottoms: list) -> tuple | None:
        """The loss and its gradients in float64, which `pylayers compare` holds the layer against.

        Args:
            bottoms: an array for each bottom, of the shapes in ``self.shapes``.

        Returns:
            The loss, and a list with the gradient of each bottom at loss weight 1, None for the CONSTANTS. None in
            place of both where the layer has no formula to take them from.
        """
        return None

    # What Caffe calls.

    def setup(self, bottom: Any, top: Any) -> None:
        """Checks the numbers of bottoms and tops, and CONSTANTS; reads param_str into ``self.options``.

        Raises:
            TypeError: an option is of the wrong kind.
            ValueError: a number of blobs, a key or a value is wrong.
        """
        names = self.bottom_names()
        unknown = [name for name in self.CONSTANTS if name not in names]
        if unknown:
            self.fail(f"CONSTANTS has {unknown[0]!r}, which is none of its bottoms: {', '.join(names)}")
        self.check_number("bottom", bottom, self.BOTTOMS, self.OPTIONAL_BOTTOMS)
        self.check_number("top", top, ("loss",), self.OPTIONAL_TOPS)
        self._constants = [index for index, name in enumerate(names[: len(bottom)]) if name in self.CONSTANTS]
        self._checked_shapes = self.kept = None
        self._constants_of = {}
        self.options = self.read_options(self.param_str)

    def reshape(self, bottom: Any, top: Any) -> None:
        """Gives the first top Caffe's shape of a loss, (), and checks the bottoms' shapes where they have changed.

        Raises:
            ValueError: a bottom is a scalar, is empty, or has another first dimension than the first one; or what
                `check_shapes` raises.
        """
        self.kept = self._shared_divisor = None
        shapes = [shape_of(blob) for blob in as_list(bottom)]
        if shapes != self._checked_shapes:
            self.shapes, self._checked_shapes = shapes, None
            for index, shape in enumerate(shapes):
                if not shape or 0 in shape:
                    self.fail_bottom(index, "at least one axis, and no axis of length 0")
                if shape[0] != shapes[0][0]:
                    self.fail_bottom(index, f"{shapes[0][0]} as its first dimension, as {self.name_bottom(0)} has")
            self.check_shapes()
            self._checked_shapes = shapes
        top[0].reshape()

    def forward(self, bottom: Any, top: Any) -> None:
        """Computes the loss on the device of Caffe's mode."""
        bottom, top = as_list(bottom), as_list(top)
        if gpu.backend.in_use(top[0]):
            self.forward_gpu(bottom, top)
        else:
            self.run_forward_cpu(bottom, top)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Writes the gradients on the device of Caffe's mode."""
        bottom, top = as_list(bottom), as_list(top)
        if gpu.backend.in_use(top[0]):
            self.backward_gpu(top, propagate_down, bottom)
        else:
            self.run_backward_cpu(top, propagate_down, bottom)

    @classmethod
    def read_options(cls, param_str: str) -> SimpleNamespace:
        """The options that a ``param_str`` gives, checked.

        Raises:
            TypeError: an option is of the wrong kind.
            ValueError: a key or a value is wrong.
        """
        try:
            options = params.parse(param_str, cls.OPTIONS)
            cls.check_options(options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{cls.__name__}: {error}") from None
        return options

    # For a base class of losses: the steps that forward and backward have in common on each device.

    def run_forward_cpu(self, bottom: list, top: list) -> None:
        """Calls `forward_cpu`, and writes the loss to the first top."""
        loss = self.forward_cpu(bottom, top)
        if type(loss) is not float:
            self.check_loss("forward_cpu", loss)
        if abs(loss) > _FLT_MAX:  # NumPy would warn, or raise under np.seterr
            loss = math.copysign(math.inf, loss)
        top[0].data[...] = loss

    def run_backward_cpu(self, top: list, propagate_down: list, bottom: list) -> None:
        """Calls `backward_cpu` for the bottoms that want a gradient, and clears the diff of constants."""
        wanted = self.wanted_gradients(propagate_down, bottom, lambda blob: blob.diff.fill(0))
        if True in wanted:
            self.backward_cpu(float(top[0].diff), wanted, bottom)

    def wanted_gradients(self, propagate_down: list, bottom: list, clear: Callable) -> list:
        """Clears the diff of the CONSTANTS that are asked for a gradient; says which other bottoms want one.

        Args:
            propagate_down: Caffe's, one bool for each bottom.
            bottom: the blobs.
            clear: a function that fills a blob's diff with zeros.

        Returns:
            One bool for each bottom, False for the CONSTANTS.
        """
        wanted = as_list(propagate_down)
        for index in self._constants:
            if wanted[index]:
                clear(bottom[index])
                wanted[index] = False
        return wanted

    def constant(self, xp: ModuleType, key: str) -> Any:
        """The number or numbers of an option as a float64 array, which is copied to each GPU once.

        Args:
            xp: as for `loss`.
            key: a key of OPTIONS whose value is a number, which gives an array of 0 axes, or a list of numbers.
        """
        place = None if xp is np else gpu.backend.device(), key
        if place not in self._constants_of:
            self._constants_of[place] = xp.asarray(getattr(self.options, key), xp.float64)
        return self._constants_of[place]

    # Over the processes of a training. Each calls the same methods equally often, or they wait for each other forever.

    def is_shared(self) -> bool:
        """Whether other processes compute this loss over other parts of the batch, as for a training's TRAIN net."""
        return reduction.ranks.count > 1 and getattr(self, "phase", caffe.TRAIN) == caffe.TRAIN

    def over_ranks(self, numbers: Any) -> Any:
        """The sum of numbers over the processes that share this loss: float64, on the host. Alone, the numbers."""
        if not self.is_shared():
            return numbers
        total = np.array(numbers.get() if hasattr(numbers, "get") else numbers, np.float64)
        reduction.ranks.add(total)
        return total

    def divisor(self, z: Any) -> Any:
        """Z, for the loss that this process computes.

        The processes' losses and gradients are averaged. So that the mean is that of the whole batch, Z is the sum of
        the processes' Z, divided by their number. They add it up once, in forward; backward takes the same.

        Args:
            z: a number, an array without axes, or `Terms`: that of this process's part of the batch.

        Returns:
            A number; alone, an array where `z` is one.
        """
        count = z.count if isinstance(z, Terms) else z
        if self.is_shared():
            if self._shared_divisor is None:
                count = float(self.over_ranks(count))
                self._shared_divisor = (max(1.0, count) if isinstance(z, Terms) else count) / reduction.ranks.count
            return self._shared_divisor
        if not isinstance(z, Terms):
            return z
        return max(1, count) if isinstance(count, (int, float)) else count.clip(1)

    def check_loss(self, method: str, loss: Any) -> None:
        """Checks that what `method` returned is one number, which NumPy's assignment would not.

        Raises:
            TypeError: it is None, of which NumPy would make NaN, or an array with axes.
        """
        if loss is None or np.ndim(loss):
            found = "None" if loss is None else f"an array of shape {np.shape(loss)}"
            raise TypeError(f"{type(self).__name__}: {method} must return the loss, one number; it returned {found}")

    @classmethod
    def bottom_names(cls) -> tuple:
        """The names of all bottoms that the layer may have."""
        return (*cls.BOTTOMS, *cls.OPTIONAL_BOTTOMS)

    # Errors, all with the class in front.

    def fail(self, message: str) -> NoReturn:
        """Raises ValueError with the layer's class before `message`."""
        raise ValueError(f"{type(self).__name__}: {message}")

    def fail_bottom(self, index: int, expected: str) -> NoReturn:
        """Raises ValueError for the shape of the bottom at `index`, with what was `expected` in words."""
        self.fail(f"{self.name_bottom(index)} has shape {self.shapes[index]}, expected {expected}")

    @classmethod
    def check_number(cls, kind: str, blobs: Sequence, required: Sequence[str], optional: Sequence[str]) -> None:
        """Checks the number of bottoms or tops.

        Args:
            kind: "bottom" or "top".
            blobs: as many things as there are blobs.
            required: names of the blobs that must be there.
            optional: names of those that may follow.

        Raises:
            ValueError: there are more or fewer blobs than names for them.
        """
        if not len(required) <= len(blobs) <= len(required) + len(optional):
            numbers = [str(len(required) + more) for more in range(len(optional) + 1)]
            numbers = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else " or ".join(numbers)
            names = ", ".join([*required, *(f"optional {name}" for name in optional)])
            raise ValueError(f"{cls.__name__}: takes {numbers} {kind}s ({names}), found {len(blobs)}")

    def name_bottom(self, index: int) -> str:
        """A bottom as error messages name it, such as ``bottom[1] (target)``."""
        return f"bottom[{index}] ({self.bottom_names()[index]})"

    def check_same_shape(self, index: int, like: int) -> None:
        """Checks that two bottoms have one shape, so that formulas over both need not care how NumPy broadcasts.

        Args:
            index: of the bottom to check.
            like: the index of the bottom whose shape is right.

        Raises:
            ValueError: the shapes differ.
        """
        if self.shapes[index] != self.shapes[like]:
            self.fail_bottom(index, f"{self.shapes[like]}, as {self.name_bottom(like)} has")

    def check_same_count(self, index: int, like: int) -> None:
        """Checks that two bottoms have the same number of elements; Caffe asks no more of a Euclidean loss.

        Args:
            index: of the bottom to check.
            like: the index of the bottom whose number is right.

        Raises:
            ValueError: the numbers differ.
        """
        if math.prod(self.shapes[index]) != math.prod(self.shapes[like]):
            self.fail_bottom(index, f"as many elements as {self.name_bottom(like)}, whose shape is {self.shapes[like]}")

    def check_weight(self, index: int, like: int) -> None:
        """Checks the shape of a bottom that holds weights, if there is one.

        Args:
            index: of the bottom with weights.
            like: the index of the bottom whose elements, or items, have the weights.

        Raises:
            ValueError: it has neither one weight for each element nor one for each item of the batch.
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


@functools.cache
def _warn_of_cpu_code(layer):
    """Warns once for each class: the cache is the memory of it."""
    warnings.warn(f"{layer} has no GPU code: in GPU mode it runs on the CPU", RuntimeWarning, stacklevel=4)
