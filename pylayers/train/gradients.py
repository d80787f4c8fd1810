"""The gradients of all ranks, averaged between backward and the update."""

import caffe
import numpy as np

from pylayers.train.solver import parameters

_UID_BYTES = 128  # NCCL_UNIQUE_ID_BYTES of nccl.h
SMALL = 16384  # elements; smaller blobs are summed together, as each sum takes a while to start


def start(solver, net, ranks, is_gpu):
    """Gives all ranks rank 0's parameters, and averages the gradients from now on.

    Returns:
        A function that does it, for the solver's callback.
    """
    if ranks.count == 1:
        return lambda: None
    if is_gpu:
        uid = ranks.gather(caffe.NCCL.new_uid() if caffe.has_nccl() and ranks.number == 0 else b"")[0]
        if len(uid) == _UID_BYTES:
            nccl = _start_nccl(solver, uid)
            return lambda kept=nccl: None  # Caffe has done it, by an object to which the solver has a bare pointer
        if ranks.number == 0:
            what = "cuts off NCCL's id (docker/caffe/patches/nccl-id.patch mends it)" if uid else "has no NCCL"
            caffe.log(f"This Caffe {what}: the GPUs' gradients are averaged through host memory")
    for blob in parameters(solver.net):
        ranks.share(blob.data)
    large, small = [], []
    for name, blob in _learned(solver.net, net):
        (large if blob.count >= SMALL else small).append((name, blob))
    together = np.empty(sum(blob.count for _, blob in small), np.float32)
    mean = np.float32(1 / ranks.count)

    def average():
        # At the end: to send each layer's while the next goes backward took longer.
        for name, blob in large:
            diff = blob.diff
            ranks.add(diff, name)
            diff *= mean
        if small:
            diffs = [blob.diff.reshape(-1) for _, blob in small]
            np.concatenate(diffs, out=together)
            ranks.add(together, "small blobs")
            parts = np.split(together, np.cumsum([diff.size for diff in diffs[:-1]]))
            for diff, part in zip(diffs, parts):
                np.multiply(part, mean, out=diff)

    return average


def _learned(net, param):
    """The blobs that are learned, each once, with the layer that has it first. Those with an lr_mult of 0 are not."""
    rates = {layer.name: [each.lr_mult for each in layer.param] for layer in param.layer if layer.type != "BatchNorm"}
    found = {}
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            known = rates.get(name, [0] * len(blobs))
            if index >= len(known) or known[index]:
                found.setdefault(blob.data.ctypes.data, (name, blob))
    return list(found.values())


def _start_nccl(solver, uid):
    """Caffe's own way, as python/train.py of its source starts it; MPI has taken the id to the other hosts."""
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    solver.add_callback(nccl)
    if solver.param.layer_wise_reduce:
        solver.net.after_backward(nccl)
    return nccl
