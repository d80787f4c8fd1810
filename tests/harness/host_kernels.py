"""The CUDA kernels compiled by g++ with host_cuda.h, and a stand-in for CuPy that runs them: GPU mode without a GPU.

Tests with it show that the kernels index, add up and synchronise as they should. They say nothing of CUDA's own
arithmetic, nor of its speed.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pylayers.runtime import kernels
from pylayers.runtime.gpu import Gpu

HEADER = Path(__file__).with_name("host_cuda.h")
COMPILER = shutil.which("g++")
# More options for g++, such as a sanitizer; tests/runtime/test_kernels.py sets them.
FLAGS = os.environ.get("HOST_KERNELS_FLAGS", "").split()
# With these a kernel counts the bytes that it reads and writes.
COUNTING = ("-fsanitize=thread", "-DCOUNT_BYTES")
_LOCK = threading.Lock()
_GUARD = np.arange(1024) % 251


@functools.cache
def _folder():
    return tempfile.TemporaryDirectory(prefix="host-kernels-")


def library(source, macros, *flags):
    """CUDA C compiled for the host, as a ctypes library; `macros` are pairs of name and value, `flags` g++'s."""
    with _LOCK:  # threads that are ranks ask for the same
        return _compile(source, macros, flags)


@functools.cache
def _compile(source, macros, flags):
    name = hashlib.sha256(repr((source, macros, flags)).encode()).hexdigest()[:16]
    path = Path(_folder().name) / f"{name}.cpp"
    path.write_text(f'#include "{HEADER}"\n{source}\nEXPORT_ALL\n')
    options = ["-std=c++14", "-O1", "-c", "-fPIC", "-fno-gnu-unique", "-fvisibility=default"]
    options += ["-Wall", "-Werror", "-Wno-unknown-pragmas", *(f"-D{name}={value}" for name, value in macros), *FLAGS]
    subprocess.run([COMPILER, *options, *flags, "-o", path.with_suffix(".o"), path], check=True)
    # Without the flags: what a sanitizer calls is there already, or in host_cuda.h.
    subprocess.run([COMPILER, "-shared", "-o", path.with_suffix(".so"), path.with_suffix(".o")], check=True)
    found = ctypes.PyDLL(path.with_suffix(".so"))  # one launch at a time
    found.params_size.restype = ctypes.c_size_t
    for kernel in kernels.NAMES:
        getattr(found, f"launch_{kernel}").restype = ctypes.c_bool
    return found


class HostGpu(Gpu):
    """A GPU whose memory is the host's: Caffe is taken to be in GPU mode, and a launch runs the kernel at once.

    `HostCupy` does what the kit asks of CuPy; all else of `Gpu` runs unchanged.
    """

    def __init__(self):
        super().__init__()
        self.cupy = HostCupy()

    def in_use(self, blob):
        return True

    def data_pointer(self, blob):
        return blob.data.ctypes.data

    def diff_pointer(self, blob):
        return blob.diff.ctypes.data

    def data(self, blob):
        return blob.data

    def diff(self, blob):
        return blob.diff

    def arrays_beside(self, blob):
        return contextlib.nullcontext()

    def shared_numbers(self, count):
        numbers = np.zeros(count)
        return numbers, numbers


class HostCupy:
    """What the kit takes from CuPy, on the host. Functions over arrays are NumPy's.

    Attributes:
        order: bit 0 runs the threads of a block from the last to the first, bit 1 the blocks.
        launches: for each launch the kernel's name, the number of blocks and the number of threads.
        streams: the streams that something was started on.
    """

    float64 = np.float64
    __version__ = "host"

    def __init__(self, processors=2, blocks_of_processor=4):
        self.__name__ = "cupy"
        self.order = 0
        self.launches = []
        self.streams = []
        self._handles, self._guarded = {}, []
        runtime = SimpleNamespace(
            cudaDevAttrMultiProcessorCount=16,
            deviceGetAttribute=lambda attribute, device: processors,
            driverGetVersion=lambda: 0,
            getDevice=lambda: 0,
            getDeviceProperties=lambda device: {"name": b"host"},
            memcpyAsync=lambda target, source, size, kind, stream: ctypes.memmove(target, source, size),
            memcpyDeviceToDevice=3,
            memsetAsync=self._memset,
            pointerGetAttributes=lambda pointer: SimpleNamespace(device=0),
            runtimeGetVersion=lambda: 0,
            streamSynchronize=lambda stream: None,
        )
        self.cuda = SimpleNamespace(
            alloc_pinned_memory=_Memory,
            driver=SimpleNamespace(
                launchKernel=self._launch,
                occupancyMaxActiveBlocksPerMultiprocessor=lambda function, threads, shared: blocks_of_processor,
            ),
            runtime=runtime,
            Event=_Event,
            get_elapsed_time=lambda start, end: 1e3 * (end.time - start.time),
            Stream=SimpleNamespace(null=_Stream()),
        )

    def __getattr__(self, name):
        return getattr(np, name)

    def count_nonzero(self, array):
        return np.asarray(np.count_nonzero(array))  # CuPy's stays on the GPU, and is no int

    def array(self, numbers, dtype):
        return _Array(np.array(numbers, dtype))

    def empty(self, count, dtype):
        """Memory, and behind it numbers that must stay: `_launch` looks."""
        memory = np.empty(count + len(_GUARD), dtype)
        memory[count:] = _GUARD
        self._guarded.append(memory[count:])
        return _Array(memory[:count])

    def RawKernel(self, code, name):  # noqa: N802
        return lambda grid, block, arguments: None

    def RawModule(self, code, options):  # noqa: N802
        found = library(code, tuple(tuple(option[2:].split("=")) for option in options))

        def get_function(name):
            handle = len(self._handles) + 1
            self._handles[handle] = name, getattr(found, f"launch_{name}")
            return SimpleNamespace(kernel=SimpleNamespace(ptr=handle))

        return SimpleNamespace(get_function=get_function)

    def _launch(self, function, blocks, y, z, threads, block_y, block_z, shared, stream, argument, extra):
        assert (y, z, block_y, block_z, shared, extra) == (1, 1, 1, 1, 0, 0)
        name, call = self._handles[function]
        self.launches.append((name, blocks, threads))
        self.streams.append(stream)
        assert call(ctypes.c_void_p.from_address(argument), blocks, threads, self.order)
        assert all((guard == _GUARD).all() for guard in self._guarded), f"{name} writes beyond what it keeps"

    def _memset(self, pointer, value, size, stream):
        self.streams.append(stream)
        ctypes.memset(pointer, value, size)


class _Array:
    def __init__(self, array):
        self._array = array
        self.data = SimpleNamespace(ptr=array.ctypes.data)


class _Stream(contextlib.nullcontext):
    def synchronize(self):
        pass


class _Event:
    def record(self, stream):
        self.time = time.perf_counter()

    def synchronize(self):
        pass


class _Memory:
    def __init__(self, size):
        self._buffer = (ctypes.c_char * size)()
        self.ptr = ctypes.addressof(self._buffer)


def call(found, variant, kernel, blocks, threads, order, values, *flags):
    """Runs a kernel on NumPy arrays.

    Args:
        found: the `Kernels` of a loss.
        variant: a dict of macros.
        kernel: the kernel's name.
        blocks: the number of blocks.
        threads: the number of threads in each.
        order: as in `HostCupy`.
        values: a dict from fields of Params to arrays or numbers; the fields that are left out are 0.
        *flags: more options for g++.
    """
    fields = {name: value.ctypes.data if isinstance(value, np.ndarray) else value for name, value in values.items()}
    launch = getattr(compiled(found, variant, *flags), f"launch_{kernel}")
    if not launch(ctypes.byref(found.params(**fields)), blocks, threads, order):
        raise RuntimeError("the threads of a block came to different barriers")


class _Range(ctypes.Structure):
    """`Range` of host_cuda.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in ("begin", "end", "read", "written")]


def traffic(found, variant, kernel, blocks, threads, values):
    """Runs a kernel as `call` does, and gives the bytes that it reads and writes.

    Returns:
        A dict from each field that is an array to a pair: how often its bytes are read, and how often written, 1.0 for
        once each.
    """
    ranges = (_Range * 16).in_dll(compiled(found, variant, *COUNTING), "ranges")
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    for each, array in zip(ranges, arrays.values()):
        each.begin, each.read, each.written = array.ctypes.data, 0, 0
        each.end = each.begin + array.nbytes
    call(found, variant, kernel, blocks, threads, 0, values, *COUNTING)
    return {
        name: (each.read / array.nbytes, each.written / array.nbytes)
        for each, (name, array) in zip(ranges, arrays.items())
    }


def compiled(found, variant, *flags):
    """The library of a variant of a loss's kernels."""
    return library(found.source, tuple(sorted({**found.macros, **variant}.items())), *flags)


def scratch(found):
    """A layer's Scratch, new: all 0."""
    return np.zeros(ctypes.sizeof(found.struct("Scratch")) // 8)
