"""Caffe on the device that a command's ``--device`` names."""

import importlib

from pylayers.errors import UserError, first_line


def import_caffe():
    """Imports Caffe.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        importlib.import_module("caffe")
    except Exception as error:  # whatever a broken Caffe raises
        message = f"cannot import Caffe ({first_line(error)}); pylayers doctor says what is wrong with it"
        raise UserError(message) from None


def use(device):
    """Puts Caffe into CPU or GPU mode. Caffe ends the process where it cannot.

    Args:
        device: "cpu" or "gpu", which is GPU 0.

    Raises:
        UserError: this Caffe has no GPU mode.
    """
    import caffe

    from pylayers.runtime import blobs, gpu

    if device == "cpu":
        caffe.set_mode_cpu()
        return
    if not blobs.CUDA_BUILD:
        raise UserError("this Caffe is built for the CPU alone; --device gpu needs one that is built with CUDA")
    if not blobs.GPU_ADDRESSES:
        raise UserError(f"{gpu.NO_ADDRESSES}; --device gpu needs Caffe 99bd997, its last version")
    caffe.set_mode_gpu()
    caffe.set_device(0)


def wait():
    """Waits until the GPU has done all that it was given. It needs no CuPy."""
    from pylayers.runtime import mode

    status = mode.find_driver().cuCtxSynchronize()
    if status:
        raise UserError(f"CUDA's driver says {status} (an error of cuda.h) where it should wait for the GPU")
