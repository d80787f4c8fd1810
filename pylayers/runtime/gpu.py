"""Where a Caffe blob's memory is. The one file of the kit that asks Caffe, or CUDA, about it."""

import contextlib
import ctypes
import functools
import warnings

from caffe import _caffe
from caffe._caffe import Blob

# Reading this attribute of a blob would move its data to the GPU; the class tells without that.
CUDA_BUILD = hasattr(Blob, "_gpu_data_ptr")

# Of the enum caffe::Caffe::Brew.
_CPU_MODE, _GPU_MODE = 0, 1
# cudaStreamLegacy of driver_types.h: the stream that Caffe works on, also where CuPy's "null" is another.
_LEGACY_STREAM = 1
# From cuda.h: the attribute to ask for, and the answer for memory from cudaMallocHost.
_CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2
_CU_MEMORYTYPE_HOST = 1


def on_gpu(blob):
    """Says whether Caffe is in GPU mode, without touching any blob's memory where that can be had.

    pycaffe cannot be asked for the mode, but libcaffe can, see `_mode_reader`. Where that fails, the kind of the blob's
    host memory tells: in GPU mode Caffe takes it from cudaMallocHost, in CPU mode from malloc, and CUDA's driver knows
    its own. That is second best: the memory stays what it was when the mode changes, and a look at it makes Caffe copy
    the blob between host and GPU, and wait.

    Args:
        blob: a blob whose data may be marked as written on the host, such as a loss layer's top.

    Returns:
        True or False; always False where Caffe is built for the CPU alone, or has no CUDA driver.
    """
    if not CUDA_BUILD or _cuda_driver() is None:
        return False
    read = _mode_reader()
    return read() == _GPU_MODE if read else _in_pinned_memory(blob)


@functools.cache
def _mode_reader():
    """A function that gives libcaffe's mode, 0 for CPU and 1 for GPU; None where libcaffe is not the one we know.

    `caffe::Caffe::Get()` gives the thread's own singleton. BVLC's class has cuBLAS's handle and cuRAND's generator
    (CUDA builds alone), a shared_ptr (two words), the mode, and solver_count and solver_rank, whose values pycaffe
    tells too: they show that the members lie where we think.
    """
    try:
        get = ctypes.CDLL(_caffe.__file__)._ZN5caffe5Caffe3GetEv
    except (AttributeError, OSError):
        return None
    get.restype = ctypes.c_void_p
    offset = (4 if CUDA_BUILD else 2) * ctypes.sizeof(ctypes.c_void_p)

    def read(member=0):
        return ctypes.c_int.from_address(get() + offset + member * ctypes.sizeof(ctypes.c_int)).value

    known = read(0) in (_CPU_MODE, _GPU_MODE) and [read(1), read(2)] == [_caffe.solver_count(), _caffe.solver_rank()]
    return read if known else None


def _in_pinned_memory(blob):
    memory_type = ctypes.c_uint(0)
    status = _cuda_driver().cuPointerGetAttribute(
        ctypes.byref(memory_type),
        _CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        ctypes.c_void_p(blob.data.ctypes.data),
    )
    return status == 0 and memory_type.value == _CU_MEMORYTYPE_HOST


def shape_of(blob):
    """A blob's shape as a tuple of int.

    ``tuple(blob.shape)`` gives the same, but at 5 µs a blob; Caffe calls an empty layer, both ways, in 3.
    """
    if not CUDA_BUILD and blob.count:
        return blob.data.shape
    shape = blob.shape
    return tuple([shape[axis] for axis in range(len(shape))])


def gpu_data(blob):
    """A CuPy view of a blob's data on the GPU, good for one call of a layer: a reshape moves the memory.

    Caffe brings the data to the GPU first if they are not there, and takes the GPU's copy for the newer one from then
    on, as it cannot know that the view is only read.
    """
    return _view(blob._gpu_data_ptr, blob)


def gpu_diff(blob):
    """As `gpu_data`, for the blob's diff."""
    return _view(blob._gpu_diff_ptr, blob)


def gpu_data_pointer(blob):
    """The address of a blob's data on the GPU, for a kernel; as `gpu_data`, without the microseconds of a view."""
    return blob._gpu_data_ptr


def gpu_diff_pointer(blob):
    """As `gpu_data_pointer`, for the blob's diff."""
    return blob._gpu_diff_ptr


def clear_gpu_diff(blob):
    """Fills a blob's diff with zeros on the GPU."""
    cupy_module().cuda.runtime.memsetAsync(gpu_diff_pointer(blob), 0, 4 * blob.count, _LEGACY_STREAM)


@contextlib.contextmanager
def device_of(blob):
    """Makes the GPU that owns a blob's data the current one, and gives its number.

    Caffe has made it so already, unless the caller's own CUDA code has changed it since.
    """
    runtime = cupy_module().cuda.runtime
    device, before = runtime.pointerGetAttributes(gpu_data_pointer(blob)).device, runtime.getDevice()
    if device == before:
        yield device
        return
    runtime.setDevice(device)
    try:
        yield device
    finally:
        runtime.setDevice(before)


def launch(function, blocks, threads, argument):
    """Starts a kernel on the stream that Caffe works on, whatever stream the caller's CuPy has current.

    Args:
        function: CUDA's handle of the kernel.
        blocks: the number of blocks.
        threads: the number of threads in each.
        argument: the address of the address of the kernel's one argument.
    """
    cupy_module().cuda.driver.launchKernel(function, blocks, 1, 1, threads, 1, 1, 0, _LEGACY_STREAM, argument, 0)


def processors(device):
    """The number of a GPU's multiprocessors."""
    runtime = cupy_module().cuda.runtime
    return runtime.deviceGetAttribute(runtime.cudaDevAttrMultiProcessorCount, device)


def gpu_zeros(count):
    """A CuPy array of `count` float64 zeros on the current GPU, for kernels on Caffe's stream."""
    return gpu_array([0.0] * count)


def gpu_array(numbers):
    """A CuPy array of numbers as float64 on the current GPU, for kernels on Caffe's stream."""
    cupy = cupy_module()
    with cupy.cuda.Stream.null:
        return cupy.array(numbers, cupy.float64)


def shared_memory(size):
    """Memory of the host, `size` bytes, all 0, that kernels can write to: an object with `ptr`, and a buffer."""
    memory = cupy_module().cuda.alloc_pinned_memory(size)
    ctypes.memset(memory.ptr, 0, size)
    return memory


def wait_for_gpu():
    """Waits until all that has been started on Caffe's stream is done."""
    cupy_module().cuda.runtime.streamSynchronize(_LEGACY_STREAM)


@contextlib.contextmanager
def gpu_of(blob):
    """Lets CuPy work where Caffe does: on the GPU that owns the blob, on the legacy default stream."""
    cupy = cupy_module()
    with gpu_data(blob).device, cupy.cuda.Stream.null:
        yield


@functools.cache
def cupy_module():
    """CuPy; or None, with one warning that says why, where it cannot be imported or cannot compute on Caffe's GPU."""
    try:
        import cupy

        # Compiles a kernel: a CuPy for another CUDA, or without a compiler, fails here and not in a layer.
        (cupy.zeros(1, cupy.float32) + 1).sum()
        return cupy
    except Exception as error:  # of many kinds: no module, no driver, no compiler, no headers
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warnings.warn(
            f"losses run on the CPU in GPU mode, as CuPy cannot be used: {reason}", RuntimeWarning, stacklevel=3
        )
        return None


def _view(pointer, blob):
    cupy = cupy_module()
    memory = cupy.cuda.UnownedMemory(pointer, 4 * blob.count, blob)
    return cupy.ndarray(shape_of(blob), cupy.float32, cupy.cuda.MemoryPointer(memory, 0))


@functools.cache
def _cuda_driver():
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
