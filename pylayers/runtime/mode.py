"""Whether Caffe is in GPU mode. pycaffe has no function that tells."""

import ctypes
import functools

from caffe import _caffe

from pylayers.runtime.blobs import CUDA_BUILD

# The values of the enum caffe::Caffe::Brew.
CPU, GPU = 0, 1
# From cuda.h: the attribute to ask for, and the answer for memory from cudaMallocHost.
_CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2
_CU_MEMORYTYPE_HOST = 1


def on_gpu(blob):
    """Says whether Caffe is in GPU mode.

    The mode is read from libcaffe's memory, where `find_reader` finds it; no blob is touched. Where it finds nothing,
    the kind of the blob's host memory tells: in GPU mode Caffe takes it from cudaMallocHost, in CPU mode from malloc,
    and CUDA's driver knows its own. That is second best. The memory keeps its kind when the mode changes, and a look at
    it makes Caffe copy the blob between host and GPU, and wait.

    Args:
        blob: a blob whose data may be marked as written on the host, such as a loss layer's top.

    Returns:
        True or False; always False where Caffe is built for the CPU alone, or has no CUDA driver.
    """
    if not CUDA_BUILD or _driver() is None:
        return False
    read = _reader()
    return read() == GPU if read else _is_pinned(blob)


def find_reader():
    """Finds where libcaffe keeps its mode.

    `caffe::Caffe::Get()` gives the thread's own singleton. In BVLC's Caffe its members are, in this order: cuBLAS's
    handle and cuRAND's generator (only in builds for CUDA), a shared_ptr (two words), the mode, solver_count and
    solver_rank. pycaffe gives the last two as well. If they agree, the members lie where they are expected.

    Returns:
        A function that gives the mode, `CPU` or `GPU`; None where libcaffe's members lie elsewhere.
    """
    try:
        get = ctypes.CDLL(_caffe.__file__)._ZN5caffe5Caffe3GetEv
    except (AttributeError, OSError):
        return None
    get.restype = ctypes.c_void_p
    offset = (4 if CUDA_BUILD else 2) * ctypes.sizeof(ctypes.c_void_p)

    def read(member=0):
        return ctypes.c_int.from_address(get() + offset + member * ctypes.sizeof(ctypes.c_int)).value

    known = read(0) in (CPU, GPU) and [read(1), read(2)] == [_caffe.solver_count(), _caffe.solver_rank()]
    return read if known else None


def find_driver():
    """CUDA's driver as a ctypes library; None where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


_reader, _driver = functools.cache(find_reader), functools.cache(find_driver)


def _is_pinned(blob):
    memory_type = ctypes.c_uint(0)
    status = _driver().cuPointerGetAttribute(
        ctypes.byref(memory_type),
        _CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        ctypes.c_void_p(blob.data.ctypes.data),
    )
    return status == 0 and memory_type.value == _CU_MEMORYTYPE_HOST
