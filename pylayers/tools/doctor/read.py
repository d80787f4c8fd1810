"""`pylayers doctor`: reads the nets of a file, which is a net or a solver."""

import os
import re
from typing import Any, NamedTuple, Optional

from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_nets.foreign import brace_mistake, cut
from pylayers.caffe_nets.prototxt_lines import Field, fields_of
from pylayers.caffe_nets.read import PHASES
from pylayers.caffe_nets.text import read_text
from pylayers.errors import UserError
from pylayers.tools.doctor import nearby
from pylayers.tools.doctor.finding import Finding, describe
from pylayers.tools.doctor.forks import unknown
from pylayers.tools.doctor.net import Net
from pylayers.tools.doctor.solver import settings

_SOLVER_FIELDS = set(caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name)
_NET_FIELDS = set(caffe_pb2.NetParameter.DESCRIPTOR.fields_by_name)

describe(
    "The solver",
    {
        "solver-net": """
            What: a solver that names no train net or several, or a net that is not where Caffe looks for it.
            Why: Caffe opens the path from the folder that it is started in, wherever the solver lies.
            Write: ``net: "..."``, the path from the folder that you call caffe in.
        """,
        "solver-settings": """
            What: a setting that Caffe refuses, such as no ``lr_policy``, or that makes nothing learn.
            Why: Caffe ends at the start or, for some settings, after the training, when what was learnt is lost.
            Write: the setting that the finding names.
        """,
    },
)


class Read(NamedTuple):
    """The nets of a file, and what is wrong with the file itself."""

    nets: list
    findings: list
    gpu: Optional[int]  # the GPU that the solver names, where it says solver_mode: GPU
    gpu_line: Optional[int]


def read(path):
    """Reads a net or a solver.

    Args:
        path: the file's path.

    Returns:
        A `Read`.

    Raises:
        UserError: the file, or a net that it names, cannot be read or parsed.
    """
    text = read_text(path)
    names = {each.name for each in fields_of(text).fields}
    if not names & (_SOLVER_FIELDS - _NET_FIELDS):
        return _read_net(path, text)
    return _Solver(path, _parse(path, text, caffe_pb2.SolverParameter())).read()


def _read_net(path, text):
    parsed = _parse(path, text, caffe_pb2.NetParameter())
    if not parsed.param.layer and not parsed.param.layers:
        raise UserError(f"{path} is no net and no solver: it has no layer")
    both = [Net(path, phase, parsed.param, parsed.field, cut=parsed.cut) for phase in PHASES]
    # What is made for one phase alone, such as a train_net, is not whole in the other.
    return Read([net for net in both if net.is_whole] or both[:1], parsed.findings, None, None)


class _Parsed(NamedTuple):
    """A text as its message."""

    param: Any
    field: Field
    findings: list  # of what Caffe does not know, and what was therefore cut
    cut: set  # the lines of the layers that something was cut out of


def _parse(path, text, message):
    left, foreign = cut(text, message.DESCRIPTOR)
    try:
        text_format.Parse(left, message)
    except text_format.ParseError as error:
        line, what = error.GetLine(), re.sub(r"^\d+:\d+ : ", "", str(error))
        line, what = brace_mistake(text) or (line, what)
        place = f"{path}:{line}" if line else path
        raise UserError(f"{place}: {what}") from None
    field = fields_of(text)
    names = _layer_names(message, field)
    findings = [unknown(each, path, names.get(each.layer)) for each in foreign]
    return _Parsed(message, field, findings, {each.layer for each in foreign})


def _layer_names(message, field):
    """The names of all layers in a net or a solver, a dict from line to name."""
    found = {}
    for kind in ("net_param", "train_net_param", "test_net_param"):
        nets = getattr(message, kind, ())
        for net, text in zip(nets if kind.startswith("test") else [nets], field.all(kind)):
            found.update(_layer_names(net, text))
    for kind in ("layer", "layers"):
        found.update((text.line, layer.name) for layer, text in zip(getattr(message, kind, ()), field.all(kind)))
    return found


class _Solver:
    """The nets of a solver, as Caffe's Solver::InitTrainNet and InitTestNets find them."""

    def __init__(self, path, parsed):
        self.path, self.param, self.field, self.cut = path, parsed.param, parsed.field, parsed.cut
        self.findings = list(parsed.findings)

    def read(self):
        """The solver as a `Read`."""
        param = self.param
        sources = {name: param.HasField(name) for name in ("net", "net_param", "train_net", "train_net_param")}
        given = [name for name, is_given in sources.items() if is_given]
        if len(given) != 1:
            self._error("solver-net", self.field, f"Caffe takes one train net, found {given or 'none'}", 'net: "..."')
            return self._result([])
        found = [self._net(given[0], 0, "train", param.train_state)]
        tests = [("test_net_param", index) for index in range(len(param.test_net_param))]
        tests += [("test_net", index) for index in range(len(param.test_net))]
        if given[0] in ("net", "net_param"):
            tests += [(given[0], 0)] * (len(param.test_iter) - len(tests))
        for severity, name, wrong, write in settings(param, self.path, len(tests)):
            line = self.field.line_of(name)
            self.findings.append(Finding(severity, wrong, write, self.path, line, rule="solver-settings"))
        for index, (name, place) in enumerate(tests):
            state = param.test_state[index] if index < len(param.test_state) else None
            found.append(self._net(name, place, "test", state))
        return self._result([net for net in found if net])

    def _result(self, found):
        # As caffe train does: only a solver_mode that is written down counts, not the default, which is GPU.
        is_gpu = self.param.HasField("solver_mode") and self.param.solver_mode == caffe_pb2.SolverParameter.GPU
        device = self.param.device_id if is_gpu else None
        findings = list(dict.fromkeys(self.findings))  # one net may serve several phases
        return Read(found, findings, device, self.field.line_of("solver_mode") if is_gpu else None)

    def _net(self, name, index, phase, state):
        field = self.field.all(name)[index]
        value = getattr(self.param, name)
        value = value[index] if name.startswith("test") else value
        more = {
            "solver": self.path,
            "weights": [file for each in self.param.weights for file in each.split(",")],
            "is_trained": phase == "train",
        }
        if name.endswith("param"):
            return Net(self.path, phase, value, field, state, cut=self.cut, **more)
        if not os.path.exists(value):
            self._missing(name, field, value)
            return None
        parsed = _parse(value, read_text(value), caffe_pb2.NetParameter())
        if not parsed.param.layer and not parsed.param.layers:
            raise UserError(f"{value} is no net: it has no layer")
        self.findings += parsed.findings
        return Net(value, phase, parsed.param, parsed.field, state, cut=parsed.cut, **more)

    def _missing(self, name, field, value):
        """Caffe opens the net from the folder that it is started in, wherever the solver lies."""
        near = nearby.find(value, self.path)
        found, write = f"there is no {value}", f'{name}: "the path of the net, from here"'
        if near:
            found += f" here, in {os.getcwd()}, from where Caffe looks for it; but there is {near}"
            write = f'{name}: "{near}"'
            if near.endswith(f"/{value}"):
                write += f", or run caffe from {os.path.abspath(near.removesuffix(value))}"
        self._error("solver-net", field, found, write)

    def _error(self, rule, field, found, write):
        self.findings.append(Finding("error", found, write, self.path, field.line, rule=rule))
