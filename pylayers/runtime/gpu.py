"""The one seam to CuPy: all that the kit does with a GPU, on Caffe's own memory there.

The layers use `backend`, and nothing else. The tests put another `Gpu` in its place, whose memory is the host's.
"""

import contextlib
import ctypes
import functools
import math
import warnings

import numpy as np

from pylayers.errors import first_line
from pylayers.runtime import blobs, mode
from pylayers.runtime.blobs import shape_of

# cudaStreamLegacy of driver_types.h: the stream that Caffe works on. CuPy's "null" stream can be another one.
_LEGACY_STREAM = 1
NO_ADDRESSES = "this pycaffe is older than August 2018 (BVLC #6499), and gives no addresses on the GPU"


class Gpu:
    """CuPy on Caffe's GPU memory.

    Caffe cannot know whether a view or an address of its memory is used to write. So when one is asked for, it brings
    the data to the GPU, and takes the GPU's copy for the newer one from then on. An address is valid for one call of a
    layer, since a reshape may move the memory.
    """

    def __init__(self):
        self._modules, self._functions = {}, {}

    def in_use(self, blob):
        """Whether Caffe is in GPU mode, and pycaffe gives addresses there; it warns once where it gives none.

        `blob` is any blob whose data may be marked as written on the host.
        """
        return mode.on_gpu(blob) and (blobs.GPU_ADDRESSES or self._warn_of_no_addresses)

    @functools.cached_property
    def _warn_of_no_addresses(self):
        warnings.warn(f"losses run on the CPU in GPU mode: {NO_ADDRESSES}", RuntimeWarning, stacklevel=4)
        return False

    @functools.cached_property
    def cupy(self):
        """CuPy; or None, with one warning that says why, where it cannot be imported or cannot compute here."""
        try:
            import cupy

            # Compiles a kernel: a CuPy for another CUDA, or without a compiler, fails here and not in a layer.
            (cupy.zeros(1, cupy.float32) + 1).sum()
            return cupy
        except Exception as error:  # of many kinds: no module, no driver, no compiler, no headers
            warnings.warn(
                f"losses run on the CPU in GPU mode, as CuPy cannot be used: {first_line(error)}",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

    # Caffe's memory.

    def data_pointer(self, blob):
        """The address of a blob's data on the GPU, for a kernel."""
        return blob._gpu_data_ptr

    def diff_pointer(self, blob):
        """The address of a blob's diff on the GPU, for a kernel."""
        return blob._gpu_diff_ptr

    def data(self, blob):
        """A CuPy array on a blob's data. It takes some microseconds more than the address from `data_pointer`."""
        return self._view(self.data_pointer(blob), blob)

    def diff(self, blob):
        """A CuPy array on a blob's diff."""
        return self._view(self.diff_pointer(blob), blob)

    def clear_diff(self, blob):
        """Fills a blob's diff with zeros."""
        self.clear(self.diff_pointer(blob), 4 * blob.count)

    def clear(self, pointer, size):
        """Fills `size` bytes at an address with zeros."""
        self.cupy.cuda.runtime.memsetAsync(pointer, 0, size, _LEGACY_STREAM)

    def _view(self, pointer, blob):
        return self._array_at(pointer, shape_of(blob), np.dtype(np.float32), blob)

    def _array_at(self, pointer, shape, dtype, owner):
        """A CuPy array on memory that is there, and that is kept as long as `owner` is."""
        memory = self.cupy.cuda.UnownedMemory(pointer, math.prod(shape) * dtype.itemsize, owner)
        return self.cupy.ndarray(shape, dtype, self.cupy.cuda.MemoryPointer(memory, 0))

    # Where and when work is done.

    @contextlib.contextmanager
    def device_of(self, blob):
        """Makes the GPU that owns a blob's data the current one, and gives its number.

        Caffe has already made it the current one, unless the caller's own CUDA code has changed that since.
        """
        runtime = self.cupy.cuda.runtime
        device, before = runtime.pointerGetAttributes(self.data_pointer(blob)).device, runtime.getDevice()
        if device == before:
            yield device
            return
        runtime.setDevice(device)
        try:
            yield device
        finally:
            runtime.setDevice(before)

    @contextlib.contextmanager
    def arrays_beside(self, blob):
        """Lets CuPy's arrays work where Caffe does: on the GPU that owns the blob, on the legacy default stream."""
        with self.data(blob).device, self.cupy.cuda.Stream.null:
            yield

    def wait(self):
        """Waits until all that has been started on Caffe's stream is done."""
        self.cupy.cuda.runtime.streamSynchronize(_LEGACY_STREAM)

    # Kernels.

    def function(self, device, kernels, variant, name):
        """CUDA's handle of a kernel, compiled for the current GPU; CuPy keeps what it compiles on disk.

        Args:
            device: the number of the current GPU.
            kernels: a `pylayers.runtime.kernels.Kernels`.
            variant: the macros that the kernel is compiled with, a tuple of pairs of name and value.
            name: the kernel's name.
        """
        key = device, kernels, variant
        if (*key, name) not in self._functions:
            if key not in self._modules:
                options = kernels.options(variant)
                self._modules[key] = self.cupy.RawModule(code=kernels.source, options=options)
            self._functions[(*key, name)] = self._modules[key].get_function(name)
        return self._functions[(*key, name)].kernel.ptr

    def launch(self, function, blocks, threads, argument):
        """Starts a kernel on the stream that Caffe works on, whatever stream the caller's CuPy has current.

        Args:
            function: the kernel's handle, from `function`.
            blocks: the number of blocks.
            threads: the number of threads in each.
            argument: the address of the address of the kernel's one argument.
        """
        self.cupy.cuda.driver.launchKernel(function, blocks, 1, 1, threads, 1, 1, 0, _LEGACY_STREAM, argument, 0)

    def blocks_of_processor(self, function, threads):
        """How many blocks of a kernel fit on a multiprocessor at once, by its registers and its memory."""
        return self.cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(function, threads, 0)

    def processors(self, device):
        """The number of a GPU's multiprocessors."""
        runtime = self.cupy.cuda.runtime
        return runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, device)

    # Memory of the layers' own.

    def array(self, numbers):
        """A CuPy array of numbers as float64 on the current GPU, for kernels on Caffe's stream."""
        with self.cupy.cuda.Stream.null:
            return self.cupy.array(numbers, self.cupy.float64)

    def empty(self, count):
        """A CuPy array of float32 on the current GPU, for kernels on Caffe's stream."""
        with self.cupy.cuda.Stream.null:
            return self.cupy.empty(count, np.float32)

    def shared_memory(self, size):
        """`size` bytes of host memory, all 0, that kernels can write to: an object with the address as ``ptr``."""
        memory = self.cupy.cuda.alloc_pinned_memory(size)
        ctypes.memset(memory.ptr, 0, size)
        return memory

    def shared_numbers(self, count):
        """Two arrays of `count` float64 numbers on the same memory, all 0: one for the host, and one for the GPU.

        Both are to be kept as long as either is used.
        """
        memory = self.shared_memory(8 * count)
        on_gpu = self._array_at(memory.ptr, (count,), np.dtype(np.float64), memory)
        return np.ctypeslib.as_array((ctypes.c_double * count).from_address(memory.ptr)), on_gpu

    def device(self):
        """The number of the current GPU."""
        return self.cupy.cuda.runtime.getDevice()


backend = Gpu()
