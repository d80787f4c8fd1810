"""`pylayers doctor`: what Caffe says when it builds a net, in a child process."""

import re

from caffe.proto import caffe_pb2

from pylayers.caffe_nets.build import written
from pylayers.caffe_nets.child import reason
from pylayers.caffe_nets.read import PHASES
from pylayers.tools.doctor.environment import ask
from pylayers.tools.doctor.finding import Finding, describe, nearest

describe(
    "The net as a whole",
    {
        "build": """
            What: a net that Caffe cannot build, where no other rule found why.
            Why: it is checked last, with Caffe itself in a child process; the finding has Caffe's last words, the layer
            that it was at, and the traceback of a Python layer.
            Write: what the message asks for.
        """
    },
)


def build(net, path):
    """Has Caffe build a net in a child process.

    Args:
        net: a `Net`; its shapes are set where it can be built.
        path: folders to search for modules first.

    Returns:
        A list with at most one `Finding`: Caffe's message, at the layer that Caffe was working on.
    """
    param = caffe_pb2.NetParameter()
    param.CopyFrom(net.param)
    del param.layer[:]
    param.layer.extend(layer for layer in net.param.layer if layer.type != "HDF5Output")  # it would empty its file
    with written(param) as file:
        answer = ask("net", file, PHASES[net.phase], param.state.level, first=path)
    if answer.found and "shapes" in answer.found:
        net.shapes = {name: tuple(shape) for name, shape in answer.found["shapes"].items()}
        return []
    says, traceback = _last_words(answer)
    layer = _at_work(net, answer.log)
    if layer and layer.field.line in net.cut:
        return []  # it may lack what was cut out of it
    if answer.found and answer.found["is_kits"]:
        says, traceback = kits_words(says, layer), ""
    finding = Finding(
        "error",
        f"Caffe cannot build the net: {says}",
        _remedy(says, net, layer),
        net.path,
        layer.field.line if layer else None,
        layer.param.name if layer else None,
        traceback,
        rule="build",
    )
    return [finding]


def kits_words(error, layer):
    """What the kit says of a user's mistake, its last line alone, with the layer's name beside its class."""
    said = error.partition(": ")[2]
    if layer is None:
        return said
    kind = layer.param.python_param.layer
    return f'{kind} "{layer.param.name}": {said.removeprefix(f"{kind}: ")}'


def _last_words(answer):
    """The message with which the probe's `net` ended, one line, and the traceback, "" for none."""
    logged = re.search(rf"{_TRACEBACK}(?:{_CHAIN}{_TRACEBACK})*", answer.log, re.MULTILINE | re.DOTALL)
    logged = logged[0] if logged else ""
    if answer.found:
        # Where a layer cannot be made Boost.Python prints the exception, and raises a SystemError that says less.
        if logged and answer.found["error"].startswith("SystemError"):
            return logged.splitlines()[-1], logged
        return answer.found["error"], answer.found["traceback"]
    return reason(answer.log, answer.status) if answer.status else f"it {answer.end}", logged


_TRACEBACK = r"^Traceback \(most recent[^\n]*\n.*?^\w[^\n]*$"
_CHAIN = r"\n\n(?:The above exception was|During handling of the above)[^\n]*\n\n"


def _remedy(says, net, layer):
    """What to write where it is plain from what Caffe says; else nothing."""
    blob = re.search(r"Unknown bottom blob '(.*?)'", says)
    if not blob or not layer:
        return ""
    before = net.layers[: net.layers.index(layer)]
    made = [*net.param.input, *(top for each in before for top in each.param.top)]
    if any(blob[1] in each.param.top for each in net.layers):
        return f'the layer that makes "{blob[1]}" above this one'
    if any(blob[1] in each.top for each in net.param.layer):
        return f'bottom "{blob[1]}" is made in the other phase alone: a layer that makes it in this one too'
    near = nearest(blob[1], made)
    return f'bottom: "{near}"' if near else ""


def _at_work(net, log):
    """The layer that Caffe was working on when it ended, taken from its log; None where the log does not tell."""
    names = {layer.param.name: index for index, layer in enumerate(net.layers)}
    at = 0
    for verb, name in re.findall(r"net\.cpp:\d+\] (Creating Layer|Setting up) (.*)", log):
        if name in names:  # it is not a split layer, which Caffe has put in
            at = names[name] + (verb == "Setting up")
    # Before it makes any layer, Caffe looks for blobs that no layer makes, and names the layer that takes one.
    for name in re.findall(r"^F.*Unknown bottom blob .* \(layer '(.*)', bottom", log, re.MULTILINE):
        at = names.get(name, at)
    return net.layers[at] if at < len(net.layers) else None
