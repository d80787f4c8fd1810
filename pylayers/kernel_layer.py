"""KernelLossLayer: a loss with CUDA kernels of its own, and how they are compiled and launched.

The kernels of a loss stand in ``kernels/<stem>.cu``: ``forward`` and ``backward``, each with one argument, a
``struct Params``. They work on Caffe's own memory. Nothing here, and nothing in them, waits for the GPU or copies
between it and the host.
"""

import ctypes
import functools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pylayers.layer import LossLayer
from pylayers.runtime import gpu as blobs

# kernels/common.cu has the same number.
MAX_THREADS = 512
# Each leaves a total of its own in Scratch; more would not be faster on today's GPUs, which hold 2048 threads on
# each of at most 160 multiprocessors.
MAX_BLOCKS = 1024
_THREADS_OF_PROCESSOR = 2048
# Scratch: two counters, Z, and for each block at most four totals.
SCRATCH_DOUBLES = 2 + 4 * MAX_BLOCKS
# Blobs from this size on are indexed with 64 bits.
_WIDE_BYTES = 2**31
_TYPES = {"float": ctypes.c_float, "double": ctypes.c_double, "long long": ctypes.c_longlong}


class Plan(NamedTuple):
    """How to launch a loss's kernels for the shapes and options of a layer.

    Attributes:
        threads: in a block.
        blocks: at most `MAX_BLOCKS`.
        macros: what the kernels are compiled with, a dict from name to int.
        fields: the values of those fields of Params that are numbers, a dict.
    """

    threads: int
    blocks: int
    macros: dict
    fields: dict


class KernelLossLayer(LossLayer):
    """A loss whose GPU code is CUDA kernels.

    The fields of ``struct Params`` that are named after a bottom or top get the address of its data, those named
    ``<bottom>_diff`` that of its diff, and ``loss_weight`` that of the loss's diff, all 0 for what is not there or not
    wanted; ``scratch`` gets the layer's own memory on the GPU. A subclass gives the numbers in `plan`.

    Attributes:
        KERNELS: the stem of the file in ``kernels/``.
        NEEDS_FORWARD: whether ``backward`` takes something from scratch that ``forward`` has left there.
    """

    KERNELS = None
    NEEDS_FORWARD = False

    def plan(self, processors):
        """The `Plan` for ``self.shapes`` and ``self.options`` on a GPU with that many multiprocessors."""
        raise NotImplementedError

    def extra_pointers(self):
        """Addresses for fields of Params that no blob has: a dict. Called once for each GPU, which is current."""
        return {}

    def before_launch(self):
        """Called at the start of forward and of backward."""

    def reshape(self, bottom, top):
        """As in `LossLayer`."""
        super().reshape(bottom, top)
        self._forward_ran = False

    def forward_gpu(self, bottom, top):
        """Launches the kernel ``forward``; the CPU code where there is no usable CuPy."""
        if blobs.cupy_module() is None:
            self._forward_on_host(bottom, top)
            return
        self.before_launch()
        with blobs.device_of(top[0]) as device:
            self._launch_forward(device, bottom, self._addresses(self._top_names(), top, blobs.gpu_data_pointer))

    def backward_gpu(self, top, propagate_down, bottom):
        """Launches the kernel ``backward``; the CPU code where there is no usable CuPy."""
        if blobs.cupy_module() is None:
            self._backward_on_host(top, propagate_down, bottom)
            return
        self.before_launch()
        with blobs.device_of(top[0]) as device:
            wanted = self._wanted(propagate_down, bottom, blobs.clear_gpu_diff)
            if True not in wanted:
                return
            if self.NEEDS_FORWARD and not self._forward_ran:
                self._launch_forward(device, bottom, {})
            diffs = {
                f"{name}_diff": blobs.gpu_diff_pointer(bottom[index])
                for index, name in enumerate(self._bottom_names()[: len(bottom)])
                if wanted[index]
            }
            self._launch("backward", device, bottom, {**diffs, "loss_weight": blobs.gpu_diff_pointer(top[0])})

    def _launch_forward(self, device, bottom, tops):
        self._launch("forward", device, bottom, tops)
        self._forward_ran = True

    def _launch(self, kernel, device, bottom, pointers):
        launcher = self._launcher(device)
        data = self._addresses(self._bottom_names(), bottom, blobs.gpu_data_pointer)
        launcher.launch(kernel, {**data, **pointers})

    def _launcher(self, device):
        """What launches this layer's kernels on a GPU, ready for the shapes that the layer has now."""
        launchers = self.__dict__.setdefault("_launchers", {})
        if device not in launchers:
            launchers[device] = Launcher(self.KERNELS, device, self.extra_pointers())
        launcher = launchers[device]
        if launcher.shapes != self.shapes:
            launcher.set(self.plan(launcher.processors), self.shapes)
        return launcher

    @staticmethod
    def _addresses(names, vector, address_of):
        return {name: address_of(vector[index]) for index, name in enumerate(names[: len(vector)])}

    def _top_names(self):
        return ("loss", *self.OPTIONAL_TOPS)


class Launcher:
    """A loss's kernels on one GPU, which is current in each call, with the Params and the scratch of one layer.

    Attributes:
        processors: the number of the GPU's multiprocessors.
        plan: how the kernels are launched.
        shapes: the bottoms' shapes that the plan is for; None at first.
    """

    def __init__(self, stem, device, pointers):
        self._stem = stem
        self._device = device
        self.processors = blobs.processors(device)
        self.plan = self.shapes = None
        self._scratch = blobs.gpu_zeros(SCRATCH_DOUBLES)
        self._always = {**pointers, "scratch": self._scratch.data.ptr}
        self._pointers = [name for name, kind in params_class(stem)._fields_ if kind is ctypes.c_void_p]

    def set(self, plan, shapes):
        """Makes ready for other shapes."""
        self.plan = plan
        # A new one: a kernel that is still to run has been given the old one's values, at its launch.
        self._params = params_class(self._stem)(**plan.fields, **self._always)
        self._argument = ctypes.c_void_p(ctypes.addressof(self._params))
        self._set = [name for name in self._pointers if name not in self._always]
        macros = tuple(sorted(plan.macros.items()))
        self._functions = {kernel: _function(self._device, self._stem, macros, kernel) for kernel in KERNEL_NAMES}
        self.shapes = shapes

    def launch(self, kernel, pointers):
        """Starts a kernel.

        Args:
            kernel: "forward" or "backward".
            pointers: addresses, by the fields of Params; the others are 0.
        """
        for name in self._set:
            setattr(self._params, name, pointers.get(name))
        function = self._functions[kernel].kernel.ptr
        blobs.launch(function, self.plan.blocks, self.plan.threads, ctypes.addressof(self._argument))


KERNEL_NAMES = ("forward", "backward")


@functools.cache
def source(stem):
    """The CUDA C of a loss's kernels, without the macros."""
    package = Path(__file__).parent
    files = package / "runtime/common.cu", package / "losses" / stem.removesuffix("_loss") / "kernels.cu"
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    # CuPy writes it to a file in the locale's encoding, which may lack what stands in the comments.
    return text.encode("ascii", "ignore").decode("ascii")


@functools.cache
def params_class(stem):
    """The ctypes class of a loss's ``struct Params``, read from the struct itself: there is one list of fields."""
    (body,) = re.findall(r"^struct Params \{\n(.*?)^\};", source(stem), re.DOTALL | re.MULTILINE)
    fields = []
    for line in body.splitlines():
        kind, pointer, name = re.fullmatch(r"  (?:const |volatile )?([\w ]+?)(\*)? (\w+);\s*(?://.*)?", line).groups()
        fields.append((name, ctypes.c_void_p if pointer else _TYPES[kind]))
    return type("Params", (ctypes.Structure,), {"_fields_": fields})


def compiler_options(macros):
    """The options of the CUDA compiler for macros, pairs of name and value."""
    return tuple(f"-D{name}={value}" for name, value in macros)


@functools.cache
def _function(device, stem, macros, kernel):
    """A kernel, compiled for the current GPU, which is `device`; CuPy keeps the result on disk."""
    return _module(device, stem, macros).get_function(kernel)


@functools.cache
def _module(device, stem, macros):
    return blobs.cupy_module().RawModule(code=source(stem), options=compiler_options(macros))


def wide(shapes):
    """1 where a blob of one of these shapes is so large that its elements are counted with 64 bits, or else 0."""
    return int(any(4 * np.prod(shape, dtype=np.int64) >= _WIDE_BYTES for shape in shapes))


def blocks_for(work, threads, processors):
    """The number of blocks for `work` pieces, one for a block at a time: no more than the GPU can run at once."""
    return min(work, MAX_BLOCKS, processors * (_THREADS_OF_PROCESSOR // threads))


def block_shape(positions, channels, inner, processors):
    """Lays a block over a blob of shape (outer, channels, inner).

    Args:
        positions: outer · inner.
        channels: the number of classes or channels.
        inner: the product of the axes after them.
        processors: the number of the GPU's multiprocessors.

    Returns:
        The number of threads in a block and of rows among them, powers of two. A row has a share of the channels;
        the threads that are not in one row have a position each.
    """
    # Memory comes in pieces of 32 bytes: side by side lie a position's channels where inner is 1, or else positions.
    rows = _power_of_two(min(32, channels)) if inner == 1 else 1
    lanes = 1 if inner == 1 else 8
    # More rows until there are threads enough to keep the GPU busy, or few channels for each. A thread that reads
    # four to eight scores at once hides as much latency as several threads would.
    enough = processors * _THREADS_OF_PROCESSOR // 4
    while positions * rows < enough and 8 * rows <= channels and 2 * rows * lanes <= MAX_THREADS:
        rows *= 2
    return max(256, rows * lanes), rows


def segments_of(positions, channels, rows, processors):
    """The number of segments, a power of two, that a sum is cut into so that few sums keep a GPU busy.

    Args:
        positions: the number of sums.
        channels: the number of terms of each.
        rows: of threads in a block, as `block_shape` gives them.
        processors: the number of the GPU's multiprocessors.
    """
    # Eight terms for a thread, at least; and all segments and sums have a place in Scratch.
    most = min(
        processors * _THREADS_OF_PROCESSOR // 2 // (positions * rows),
        channels // (8 * rows),
        4 * MAX_BLOCKS // positions - 1,
    )
    return _power_of_two(max(1, most))


def _power_of_two(number):
    """The largest power of two that is not larger."""
    return 1 << (number.bit_length() - 1)
