"""Nets for the commands: read from text, cut down to what leads to a loss, loaded, tried in a child process."""

import faulthandler
import os
import re
import resource
import sys
import tempfile
import traceback

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.tools.report import UserError, read_text

PHASES = {"train": caffe.TRAIN, "test": caffe.TEST}
# They take or give indices and have no gradient: asked for one, as force_backward does, they end the process.
NO_BACKWARD = ("ArgMax", "Embed", "Threshold")


def read(path, phase):
    """Reads a prototxt file.

    Args:
        path: of the file.
        phase: "train" or "test".

    Returns:
        A NetParameter with the layers of that phase.

    Raises:
        UserError: there is no such file, or it holds no net with a loss.
    """
    return parse(read_text(path), phase, path)


def read_layers(path, phase):
    """The layers that a prototxt file has in a phase, caffe.TRAIN or caffe.TEST; there need be no loss."""
    param = _parse_layers(read_text(path), path)
    return [layer for layer in param.layer if included(layer, param.state, phase)]


def _parse_layers(text, name):
    param = caffe_pb2.NetParameter()
    try:
        text_format.Parse(text, param)
    except text_format.ParseError as error:
        raise UserError(f"{name} is not a net: {error}") from None
    if param.layers:
        raise UserError(f'{name} has "layers" of the old format; Caffe\'s upgrade_net_proto_text makes them "layer"')
    if not param.layer:
        raise UserError(f"{name} is not a net: it has no layer")
    return param


def parse(text, phase, name="the net"):
    """Makes a NetParameter of prototxt text, as `read` does of a file; `name` is for error messages."""
    param = _parse_layers(text, name)
    kept = [layer for layer in param.layer if included(layer, param.state, PHASES[phase])]
    if not any(map(loss_weights, kept)):
        raise UserError(
            f"{name} has no loss in phase {phase.upper()}: "
            "no layer has a loss_weight, and none is a loss of Caffe's own"
        )
    del param.layer[:]
    param.layer.extend(kept)
    return param


def loss_weights(layer):
    """The loss weights of a layer other than 0, a dict from top to weight. Caffe's own losses have 1 by default."""
    weights = list(layer.loss_weight)
    if not weights and layer.type.endswith("Loss"):
        weights = [1]
    return {top: weight for top, weight in zip(layer.top, weights) if weight}


def lead_to_loss(layers):
    """The layers that a loss depends on, and those without bottoms."""
    wanted, kept = set(), []
    for layer in reversed(layers):
        if not layer.bottom or loss_weights(layer) or wanted & set(layer.top):
            kept.append(layer)
            wanted |= set(layer.bottom)
    return kept[::-1]


def with_loss_weight(param, factor):
    """A copy of a NetParameter: what leads to a loss, each loss weight times `factor`, gradients down to the inputs."""
    scaled = caffe_pb2.NetParameter()
    scaled.CopyFrom(param)
    scaled.force_backward = True
    del scaled.layer[:]
    scaled.layer.extend(lead_to_loss(param.layer))
    for layer in scaled.layer:
        weights = loss_weights(layer)
        if weights:
            layer.loss_weight[:] = [factor * weights.get(top, 0) for top in layer.top]
    return scaled


def load(param, phase):
    """A net from a NetParameter, or from prototxt text."""
    text = param if isinstance(param, str) else text_format.MessageToString(param)
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return caffe.Net(file.name, PHASES[phase])


def backward(net):
    """Runs a net backward, but for the layers of NO_BACKWARD."""
    start = len(net.layers) - 1
    for index in [*(index for index in range(start, -1, -1) if net.layers[index].type in NO_BACKWARD), -1]:
        if index < start:
            net._backward(start, index + 1)
        start = index - 1


def included(layer, state, phase):
    """Caffe's rule for a layer's `include` and `exclude`, net.cpp's FilterNet."""

    def meets(rule):
        return not (
            (rule.HasField("phase") and rule.phase != phase)
            or (rule.HasField("min_level") and state.level < rule.min_level)
            or (rule.HasField("max_level") and state.level > rule.max_level)
            or not set(rule.stage) <= set(state.stage)
            or set(rule.not_stage) & set(state.stage)
        )

    return any(map(meets, layer.include)) if layer.include else not any(map(meets, layer.exclude))


def rehearse(work, name):
    """Calls `work` in a child process first: Caffe ends the process where a net is wrong.

    Args:
        work: a function without arguments; what it returns is lost.
        name: of what it does it with, for the error message.

    Raises:
        UserError: `work` raised an exception or ended the process; the message is the reason, in one line.
    """
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _run_and_exit(work, errors.fileno())
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            raise UserError(_reason(errors.read().decode(errors="replace"), name, code))


def rehearsed(work, name):
    """Calls `work` in a child process first, as `rehearse`, and then here; returns what it returns."""
    rehearse(work, name)
    return work()


def _run_and_exit(work, errors):
    status = 1
    try:
        # An abort is expected: no core file, no dump of Python's stack.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()
        os.dup2(errors, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        work()
        status = 0
    except UserError as error:
        print(f"{_MISTAKE}{error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


_MISTAKE = "pylayers: "


def _reason(log, name, status):
    """What a child process that worked on `name` ended with: the mistake that it reports, or the reason."""
    for line in log.splitlines():
        if line.startswith(_MISTAKE):
            return line[len(_MISTAKE) :]
    return f"{name}: {reason(log, status)}"


def reason(log, status):
    """The line that says why a process ended, of what it wrote to stderr."""
    lines = [line for line in log.splitlines() if line.strip()]
    for line in lines:
        fatal = re.match(r"F\d{4,8} [^\]]*\] (.*)", line)
        if fatal:
            return "Caffe says: " + re.sub(r" \(known types: .*", "", fatal[1].strip())
    # The first exception is the cause: Boost.Python prints it, and raises a SystemError that says less.
    for line in lines:
        if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line):
            return line
    return f"Caffe ended the process with status {status}" + (f": {lines[-1]}" if lines else "")
