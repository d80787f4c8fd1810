"""Caffe on the device that a command's ``--device`` names."""

import caffe

from pylayers.errors import UserError
from pylayers.runtime import blobs


def use(device):
    """Puts Caffe into CPU or GPU mode. Caffe ends the process where it cannot.

    Args:
        device: "cpu" or "gpu", which is GPU 0.

    Raises:
        UserError: this Caffe has no GPU mode.
    """
    if device == "cpu":
        caffe.set_mode_cpu()
        return
    if not blobs.CUDA_BUILD:
        raise UserError("this Caffe is built for the CPU alone; --device gpu needs one that is built with CUDA")
    caffe.set_mode_gpu()
    caffe.set_device(0)
