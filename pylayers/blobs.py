"""Where a Caffe blob's memory is. The one file of the kit that asks Caffe, or CUDA, about it."""

import contextlib
import ctypes
import functools
import warnings

from caffe._caffe import Blob

# Reading this attribute of a blob would move its data to the GPU; the class tells without that.
_CUDA_BUILD = hasattr(Blob, "_gpu_data_ptr")

# From cuda.h: the attribute to ask for, and the answer for memory from cudaMallocHost.
_CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2
_CU_MEMORYTYPE_HOST = 1


def on_gpu(blob):
    """Says whether Caffe is in GPU mode, by the memory of a blob that it has just allocated.

    pycaffe cannot be asked for the mode. But in GPU mode Caffe takes a blob's host memory from
    cudaMallocHost, in CPU mode from malloc, and CUDA's driver knows its own.

    Args:
        blob: a blob whose data may be marked as written on the host, such as a loss layer's top.

    Returns:
        True or False; always False where Caffe is built for the CPU alone, or has no CUDA driver.
    """
    if not _CUDA_BUILD or _cuda_driver() is None:
        return False
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
    if not _CUDA_BUILD and blob.count:
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
