"""The solver of a training: read from its file, and made with what the kit does itself switched off."""

import os
from pathlib import Path

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_nets.build import written
from pylayers.caffe_nets.read import included
from pylayers.caffe_nets.text import read_text
from pylayers.errors import UserError, first_line

_NEVER = 2**31 - 1  # iterations; Caffe wants a test_interval above 0 where there are test nets


def read(path):
    """A SolverParameter, with the snapshot_prefix that Caffe would take.

    Raises:
        UserError: the file cannot be read, or is no solver.
    """
    param = caffe_pb2.SolverParameter()
    try:
        text_format.Parse(read_text(path), param)
    except text_format.ParseError as error:
        raise UserError(f"{path} is not a solver: {error}") from None
    if not any(map(param.HasField, ("net", "net_param", "train_net", "train_net_param"))):
        raise UserError(f'{path} names no net to train: net: "..."')
    if not param.HasField("snapshot_prefix"):
        param.snapshot_prefix = str(Path(path).with_suffix(""))
    elif os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, Path(path).stem)
    return param


def nets(param):
    """The train net and the test nets of a SolverParameter, as Solver::InitTrainNet and InitTestNets find them.

    Returns:
        NetParameters, the train net first, each with the layers of its phase. One in the old format has none.

    Raises:
        UserError: a file cannot be read, or is no net.
    """
    generic = _read_net(param.net) if param.net else param.net_param
    own = param.train_net_param if param.HasField("train_net_param") else generic
    tests = [*param.test_net_param, *map(_read_net, param.test_net)]
    tests += [generic] * (len(param.test_iter) - len(tests))
    states = [*param.test_state] or [caffe_pb2.NetState()] * len(tests)
    found = [_of_phase(_read_net(param.train_net) if param.train_net else own, caffe.TRAIN, param.train_state)]
    return found + [_of_phase(net, caffe.TEST, state) for net, state in zip(tests, states)]


def _read_net(path):
    net = caffe_pb2.NetParameter()
    try:
        text_format.Parse(read_text(path), net)
    except text_format.ParseError as error:
        raise UserError(f"{path} is not a net: {error}") from None
    return net


def _of_phase(param, phase, state):
    net = caffe_pb2.NetParameter()
    net.CopyFrom(param)
    net.state.MergeFrom(state)
    del net.layer[:]
    net.layer.extend(layer for layer in param.layer if included(layer, net.state, phase))
    return net


def part_prefix(prefix):
    """Where a snapshot is written aside, before it gets its name."""
    folder, name = os.path.split(prefix)
    return os.path.join(folder, f".{name}.part")


def make(param, net):
    """A solver that trains as a SolverParameter says, and leaves display, test and snapshots to its caller.

    Args:
        param: the SolverParameter.
        net: the NetParameter of its train net.

    Raises:
        UserError: a Python layer cannot be made.
    """
    quiet = caffe_pb2.SolverParameter()
    quiet.CopyFrom(param)
    quiet.display = quiet.snapshot = 0
    quiet.test_interval, quiet.test_initialization = _NEVER, False
    quiet.snapshot_prefix = part_prefix(param.snapshot_prefix)
    # With NCCL Caffe sums each layer's gradients while the next goes backward: once a pass, and not where layers share.
    quiet.layer_wise_reduce &= param.iter_size == 1 and not _shares_parameters(net)
    with written(quiet) as path:
        try:
            return caffe.get_solver(path)
        except SystemError:  # what Boost makes of an error that Caffe has printed
            raise UserError(
                "Caffe cannot make a Python layer; the error is above, and pylayers doctor explains it"
            ) from None
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"Caffe cannot make a Python layer: {first_line(error)}") from None


def _shares_parameters(net):
    names = [param.name for layer in net.layer for param in layer.param if param.name]
    return len(set(names)) < len(names)


def parameters(net):
    """The learnable blobs of a net, each of those that layers share once."""
    blobs = [blob for blobs in net.params.values() for blob in blobs]
    return list({blob.data.ctypes.data: blob for blob in blobs}.values())
