"""Nets built from text: written to a file for Caffe, loaded, and run backward."""

import contextlib
import tempfile

import caffe
from google.protobuf import text_format

from pylayers.caffe_facts import NO_BACKWARD


@contextlib.contextmanager
def written(param):
    """Writes a prototxt file that is there while the block runs, since Caffe reads nets and solvers only from files.

    Args:
        param: a message, such as a NetParameter or a SolverParameter, or its text.

    Yields:
        The file's path, a string.
    """
    text = param if isinstance(param, str) else text_format.MessageToString(param)
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        yield file.name


def load(param, phase=caffe.TEST):
    """A net from a NetParameter or its text, in phase caffe.TEST or caffe.TRAIN."""
    with written(param) as path:
        return caffe.Net(path, phase)


def backward(net):
    """Runs a net backward in segments around the layers that have no backward."""
    start = len(net.layers) - 1
    for index in [*(index for index in range(start, -1, -1) if net.layers[index].type in NO_BACKWARD), -1]:
        if index < start:
            net._backward(start, index + 1)
        start = index - 1
