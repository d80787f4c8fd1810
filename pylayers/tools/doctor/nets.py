"""`pylayers doctor`: the nets that a file stands for, the line of each field, and what depends on what in a net."""

import difflib
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_nets import read as nets
from pylayers.tools.doctor.environment import Finding, ask
from pylayers.tools.doctor.solver import settings
from pylayers.tools.report import UserError, read_text

_SOLVER_FIELDS = set(caffe_pb2.SolverParameter.DESCRIPTOR.fields_by_name)
# What is found while the nets are read and built; the other rules are in `pylayers.tools.doctor.rules`.
RULES = ("solver-net", "solver-settings", "build")
_NET_FIELDS = set(caffe_pb2.NetParameter.DESCRIPTOR.fields_by_name)


class Field:
    """A field of a prototxt text: its name, its line, counted from 1, and the fields in it."""

    def __init__(self, name, line):
        self.name, self.line, self.fields, self.opened = name, line, [], False

    def all(self, name):
        """The fields of that name in this one, in the order of the text."""
        return [field for field in self.fields if field.name == name]

    def line_of(self, *path):
        """The line of a field in a field in this one, each the first of its name; as near as the text comes to it."""
        field = self
        for name in path:
            if not field.all(name):
                break
            field = field.all(name)[0]
        return field.line


def fields_of(text):
    """A prototxt text as a tree, for the lines: protobuf's parser keeps none, but its tokenizer knows them."""
    tokenizer = text_format.Tokenizer(text.splitlines())
    root = Field("", 1)
    path, last = [root], root
    while not tokenizer.AtEnd():
        token, line = tokenizer.token, tokenizer._line + 1
        tokenizer.NextToken()
        if token in ("{", "<"):
            if last.opened:  # another message of a list
                last = Field(last.name, line)
                path[-1].fields.append(last)
            last.opened = True
            path.append(last)
        elif token in ("}", ">") and len(path) > 1:
            last = path.pop()
        elif tokenizer.token in (":", "{", "<", "[") and re.match("[A-Za-z_]", token):
            last = Field(token, line)
            path[-1].fields.append(last)
    return root


class Layer:
    """A layer of a net in one phase.

    Attributes:
        param: the LayerParameter.
        field: the text of it, a `Field`.
        sources: for each bottom the `Layer` that it comes from, or None.
        asked: for each bottom, whether Caffe asks the layer for its gradient where it runs its backward.
        is_reached: whether the layer or one below it learns.
        is_under_loss: whether a loss depends on it, another layer's.
        runs_backward: whether Caffe runs its backward when it trains.
    """

    def __init__(self, param, field, sources):
        self.param, self.field, self.sources = param, field, sources
        below = [source is not None and source.is_reached for source in sources]
        self.asked = list(param.propagate_down) if len(param.propagate_down) == len(below) else below
        self.is_reached = any(below) or learns(param)
        self.is_under_loss = self.runs_backward = False


class Net:
    """A net in one phase, as Caffe filters it.

    Attributes:
        path: of the file it stands in.
        phase: "train" or "test".
        param: the NetParameter, all layers in it, its state that of the phase.
        field: the text of it, a `Field`.
        layers: a `Layer` for each layer of the phase.
        modules: what the probe says of each module of its Python layers, see `pylayers.tools.doctor.rules`.
        shapes: dict from blob to shape once the net has been built, else None.
        gpus: what ``--gpu`` says, or None.
        weights: whether the solver names a file of weights.
        is_trained: whether it is the train net of a solver.
    """

    def __init__(self, path, phase, param, field, state=None):
        self.path, self.phase, self.field = path, phase, field
        self.param = caffe_pb2.NetParameter()
        self.param.CopyFrom(param)
        # As Caffe's solver merges them.
        self.param.state.CopyFrom(caffe_pb2.NetState(phase=nets.PHASES[phase]))
        self.param.state.MergeFrom(param.state)
        if state is not None:
            self.param.state.MergeFrom(state)
        self.layers = self._connected()
        self.modules, self.shapes, self.gpus, self.weights, self.is_trained = {}, None, None, False, False

    def _connected(self):
        """The layers of the phase, each with its sources and gradients as Caffe's Net::Init works them out."""
        layers, made = [], {}
        for param, field in zip(self.param.layer, self.field.all("layer")):
            if nets.included(param, self.param.state, nets.PHASES[self.phase]):
                layer = Layer(param, field, [made.get(name) for name in param.bottom])
                layers.append(layer)
                made.update(dict.fromkeys(param.top, layer))
        under_loss, wanted = set(), set()  # layers that a loss depends on; those whose gradient another layer gives
        for layer in reversed(layers):
            is_end = is_loss(layer.param)
            layer.is_under_loss = layer in under_loss
            if is_end or layer.is_under_loss:
                under_loss.update(layer.sources)
                layer.runs_backward = layer.is_reached and (is_end or layer in wanted)
                if layer.runs_backward:
                    wanted.update(source for source, asked in zip(layer.sources, layer.asked) if asked)
        if self.param.force_backward:
            for layer in layers:
                layer.runs_backward = True
                if layer.param.type == "Python" or layer.param.type in nets.NO_BACKWARD:
                    layer.asked = [True] * len(layer.sources)
        return layers

    @property
    def is_whole(self):
        """Whether every bottom comes from somewhere."""
        return all(
            source is not None or name in self.param.input
            for layer in self.layers
            for name, source in zip(layer.param.bottom, layer.sources)
        )

    def python_layers(self):
        """The layers of type Python."""
        return [layer for layer in self.layers if layer.param.type == "Python"]

    @property
    def has_loss(self):
        """Whether a layer has a loss weight other than 0."""
        return any(is_loss(layer.param) for layer in self.layers)

    def takers(self, layer):
        """The layers that take a top of `layer` as a bottom."""
        return [other for other in self.layers if layer in other.sources]

    def described(self, layer):
        """What the probe says of a Python layer's class; None where the class cannot be had."""
        module = self.modules.get(layer.param.python_param.module)
        return module and module.classes.get(layer.param.python_param.layer)

    def error(self, layer, path, found, write, detail=""):
        """A `Finding` about a layer, at the line of the field that `path` leads to."""
        return Finding("error", found, write, self.path, layer.field.line_of(*path), layer.param.name, detail)

    def warning(self, layer, path, found, write, detail=""):
        """As `error`, for what may be meant."""
        return self.error(layer, path, found, write, detail)._replace(severity="warning")


def is_loss(param):
    """Whether a layer has a loss weight other than 0; a loss of Caffe's own needs no top, which Caffe then adds."""
    return bool(nets.loss_weights(param)) or (not param.top and param.type.endswith("Loss") and not param.loss_weight)


def learns(layer):
    """Whether a layer of Caffe's own has a parameter whose lr_mult is not 0; a Python layer does not say."""
    kinds = {
        "Convolution": 1 + layer.convolution_param.bias_term,
        "Deconvolution": 1 + layer.convolution_param.bias_term,
        "InnerProduct": 1 + layer.inner_product_param.bias_term,
        "Embed": 1 + layer.embed_param.bias_term,
        "Scale": (len(layer.bottom) == 1) + layer.scale_param.bias_term,
        "Bias": int(len(layer.bottom) == 1),
        "BatchNorm": 3,
        "PReLU": 1,
        "LSTM": 3,
        "RNN": 5,
        "Parameter": 1,
    }
    rates = [spec.lr_mult for spec in layer.param]
    count = kinds.get(layer.type, 0)
    return any((rates + [1] * count)[:count])


class Read(NamedTuple):
    """What a file stands for."""

    nets: list
    findings: list
    gpu: Optional[int]  # the GPU that the solver names, where it says solver_mode: GPU
    gpu_line: Optional[int]


def read(path):
    """Reads a net or a solver.

    Returns:
        A `Read`.

    Raises:
        UserError: it, or a net that it names, cannot be read or parsed.
    """
    text = read_text(path)
    field = fields_of(text)
    names = {each.name for each in field.fields}
    if not names & (_SOLVER_FIELDS - _NET_FIELDS):
        return _read_net(path, text, field)
    return _Solver(path, _parse(path, text, caffe_pb2.SolverParameter()), field).read()


def _read_net(path, text, field):
    param = _parse(path, text, caffe_pb2.NetParameter())
    if not param.layer and not param.layers:
        raise UserError(f"{path} is no net and no solver: it has no layer")
    both = [Net(path, phase, param, field) for phase in nets.PHASES]
    # What is made for one phase alone, such as a train_net, is not whole in the other.
    return Read([net for net in both if net.is_whole] or both[:1], [], None, None)


def _parse(path, text, message):
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        line = error.GetLine()
        place = f"{path}:{line}" if line else path
        what = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise UserError(f"{place}: {what}") from None


class _Solver:
    """The nets of a solver, as Caffe's Solver::InitTrainNet and InitTestNets find them."""

    def __init__(self, path, param, field):
        self.path, self.param, self.field = path, param, field
        self.findings = []

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
        for net in found:
            net.weights, net.is_trained = bool(self.param.weights), net.phase == "train"
        # caffe train looks at a solver_mode that is written down; the default, GPU, is nobody's.
        is_gpu = self.param.HasField("solver_mode") and self.param.solver_mode == caffe_pb2.SolverParameter.GPU
        device = self.param.device_id if is_gpu else None
        findings = list(dict.fromkeys(self.findings))  # a net may be that of several phases
        return Read(found, findings, device, self.field.line_of("solver_mode") if is_gpu else None)

    def _net(self, name, index, phase, state):
        field = self.field.all(name)[index]
        value = getattr(self.param, name)
        value = value[index] if name.startswith("test") else value
        if name.endswith("param"):
            return Net(self.path, phase, value, field, state)
        if not os.path.exists(value):
            self._missing(name, field, value)
            return None
        text = read_text(value)
        param, field = _parse(value, text, caffe_pb2.NetParameter()), fields_of(text)
        return Net(value, phase, param, field, state)

    def _missing(self, name, field, value):
        """Caffe opens the net from the folder that it is started in, wherever the solver lies."""
        for folder in Path(self.path).resolve().parents:
            if (folder / value).exists():
                self._error(
                    "solver-net",
                    field,
                    f"there is no {value} here, in {os.getcwd()}, from where Caffe looks for it; but in {folder}",
                    f'{name}: "{os.path.relpath(folder / value)}", or run caffe from {folder}',
                )
                return
        self._error("solver-net", field, f"there is no {value}", f'{name}: "the path of the net, from here"')

    def _error(self, rule, field, found, write):
        self.findings.append(Finding("error", found, write, self.path, field.line, rule=rule))


def build(net, path):
    """Has Caffe build a net in a child process.

    Args:
        net: a `Net`; its shapes are set where it can be built.
        path: folders to search for modules first.

    Returns:
        A list with one `Finding` at most: what Caffe says, at the layer that it was at.
    """
    param = caffe_pb2.NetParameter()
    param.CopyFrom(net.param)
    del param.layer[:]
    param.layer.extend(layer for layer in net.param.layer if layer.type != "HDF5Output")  # it would empty its file
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", encoding="utf-8") as file:
        file.write(text_format.MessageToString(param))
        file.flush()
        phase, level = nets.PHASES[net.phase], param.state.level
        answer = ask(do="net", path=path, file=file.name, phase=phase, level=level)
    if answer.found and "shapes" in answer.found:
        net.shapes = {name: tuple(shape) for name, shape in answer.found["shapes"].items()}
        return []
    says, traceback = _last_words(answer)
    layer = _at_work(net, answer.log)
    finding = Finding(
        "error",
        f"Caffe cannot build the net: {says}",
        _remedy(says, layer),
        net.path,
        layer.field.line if layer else None,
        layer.param.name if layer else None,
        traceback,
        rule="build",
    )
    return [finding]


def _last_words(answer):
    """What the probe's `net` ended with, in a line, and the traceback, "" for none."""
    logged = re.search(rf"{_TRACEBACK}(?:{_CHAIN}{_TRACEBACK})*", answer.log, re.MULTILINE | re.DOTALL)
    logged = logged[0] if logged else ""
    if answer.found:
        # Where a layer cannot be made Boost.Python prints the exception, and raises a SystemError that says less.
        if logged and answer.found["error"].startswith("SystemError"):
            return logged.splitlines()[-1], logged
        return answer.found["error"], answer.found["traceback"]
    return nets.reason(answer.log, answer.status) if answer.status else f"it {answer.end}", logged


_TRACEBACK = r"^Traceback \(most recent[^\n]*\n.*?^\w[^\n]*$"
_CHAIN = r"\n\n(?:The above exception was|During handling of the above)[^\n]*\n\n"


def _remedy(says, layer):
    """What to write where it is plain from what Caffe says; else nothing."""
    unknown = re.search(r"Unknown layer type: (\w+)", says)
    if unknown:
        if unknown[1] in _WITH_OPENCV:
            return "a Caffe that is built with OpenCV, make CAFFE=--with-opencv"
        near = difflib.get_close_matches(unknown[1], list(caffe.layer_type_list()), n=1)
        return f'type: "{near[0]}"' if near else ""
    for _, value in layer.param.ListFields() if layer else ():
        source = getattr(value, "source", "")
        if source and not os.path.exists(source):
            return f'source: "a file or database that is there": there is no {source} here, in {os.getcwd()}'
    return ""


_WITH_OPENCV = ("ImageData", "VideoData", "WindowData")


def _at_work(net, log):
    """The layer that Caffe was at when it ended, by its log; None where that does not say."""
    names = {layer.param.name: index for index, layer in enumerate(net.layers)}
    at = 0
    for verb, name in re.findall(r"net\.cpp:\d+\] (Creating Layer|Setting up) (.*)", log):
        if name in names:  # and no split that Caffe has put in
            at = names[name] + (verb == "Setting up")
    # Before it makes any layer Caffe looks for blobs that nobody makes, and names who wants them.
    for name in re.findall(r"^F.*Unknown bottom blob .* \(layer '(.*)', bottom", log, re.MULTILINE):
        at = names.get(name, at)
    return net.layers[at] if at < len(net.layers) else None
