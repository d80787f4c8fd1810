"""The gradients of all ranks, averaged between backward and the update."""

import caffe
import numpy as np

from pylayers.train.solver import parameters


def start(solver, ranks, is_gpu):
    """Gives all ranks rank 0's parameters, and averages the gradients from now on.

    Returns:
        A function that averages them, for the solver's callback; None where Caffe does it, by NCCL.
    """
    if ranks.count == 1:
        return None
    if is_gpu and caffe.has_nccl():
        return _by_nccl(solver, ranks)
    if is_gpu and ranks.number == 0:
        caffe.log("This Caffe has no NCCL: the GPUs' gradients are averaged through host memory")
    for blob in parameters(solver.net):
        ranks.share(blob.data)
    named = _by_layer(solver.net)

    def average():
        # One sum a blob, at the end: to send each layer's while the next goes backward, or all in one, took longer.
        for name, blob in named:
            diff = blob.diff
            ranks.add(diff, name)
            diff *= np.float32(1 / ranks.count)

    return average


def _by_layer(net):
    """The learnable blobs, each once, with the layer that has it first."""
    blobs = [(name, blob) for name, blobs in net.params.items() for blob in blobs]
    return list({blob.data.ctypes.data: (name, blob) for name, blob in reversed(blobs)}.values())[::-1]


def _by_nccl(solver, ranks):
    """Caffe's own, as python/train.py of its source starts it; MPI takes the id to the other hosts."""
    nccl = caffe.NCCL(solver, ranks.gather(caffe.NCCL.new_uid() if ranks.number == 0 else None)[0])
    nccl.bcast()
    solver.add_callback(nccl)
    if solver.param.layer_wise_reduce:
        solver.net.after_backward(nccl)
