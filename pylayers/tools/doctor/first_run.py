"""`pylayers doctor`: a net that could be built is run once, forward and in phase TRAIN backward, in a child process."""

import os
import re
from types import SimpleNamespace

from caffe.proto import caffe_pb2

from pylayers.caffe_facts import index_bottoms, learns, loss_weights
from pylayers.caffe_nets.build import written
from pylayers.caffe_nets.child import reason
from pylayers.caffe_nets.labels import find_labels, kits_class
from pylayers.caffe_nets.read import PHASES
from pylayers.tools.doctor.build import kits_words
from pylayers.tools.doctor.environment import ask
from pylayers.tools.doctor.finding import Finding, describe

describe(
    "A first run",
    {
        "run-error": """
            What: a layer that raises an exception, or ends the process, in the first forward or backward.
            Why: the net is run once after it could be built, one batch in each phase. ``--no-run`` leaves that out.
            Write: what the message asks for, at the file and line that it names.
        """,
        "run-limit": """
            What: a first run that does not come to an end.
            Why: it has 60 seconds, so that a layer that hangs is found. A net may also be as large as that.
            Write: ``--run-limit SECONDS`` for a large net, or ``--no-run``.
        """,
        "run-labels": """
            What: labels that are out of range, or not whole; or a batch in which all of them are ignored.
            Why: Caffe's own losses do not look: they read beyond the end of the scores, and train on what they find
            there, or end the process. The first batch alone is looked at.
            Write: ``ignore_label`` where the value marks what is to be left out; else labels from 0 to classes − 1.
        """,
        "run-loss": """
            What: a loss that is NaN or infinite, or exactly 0, in the first forward.
            Why: NaN spreads to all parameters with the first update. 0 is what a top holds that nobody writes. Inputs
            of the net hold random numbers here, and labels where it takes labels.
            Write: what the layer that is named needs; ``top[0].data[...] = ...`` in a forward that does not write.
        """,
        "run-changed-bottom": """
            What: a Python layer whose forward changes the data of its bottom.
            Why: other layers read that blob too, and the backward of the layer that made it. An array such as
            ``bottom[0].data`` is the blob itself: ``x -= x.max()`` changes it.
            Write: ``x = bottom[0].data.copy()``, or a top of the same name, where the layer works in place.
        """,
        "run-gradient": """
            What: a gradient that is NaN or infinite; or 0 everywhere, of a Python layer or of all parameters.
            Why: NaN spreads with the first update. A gradient of 0 is what a bottom holds that backward does not write.
            Write: ``bottom[0].diff[...] = ...`` in backward.
        """,
    },
)


def first_run(net, path, limit):
    """Runs a net in a child process.

    Args:
        net: a `Net` that could be built, with its shapes.
        path: folders to search for modules first.
        limit: the seconds that it has.

    Returns:
        A list of findings.
    """
    param = caffe_pb2.NetParameter()
    param.CopyFrom(net.param)
    del param.layer[:]
    param.layer.extend(layer for layer in net.param.layer if layer.type != "HDF5Output")  # it would write its file
    layers = [layer for layer in net.layers if layer.param.type != "HDF5Output"]
    with written(param) as file:
        arguments = (file, PHASES[net.phase], param.state.level, _plan(net, layers))
        answer = ask("run", *arguments, first=path, script="try_net", timeout=limit)
    if answer.found is None:
        return [_ended(net, layers, answer)]
    says = _Says(net, layers)
    return [finding._replace(rule=rule) for each in answer.found for rule, finding in [says.finding(each)]]


def _plan(net, layers):
    """What `try_net` needs to know, a dict of plain things."""
    blobs = {name: SimpleNamespace(shape=shape) for name, shape in net.shapes.items()}
    params = [layer.param for layer in layers]
    labels = {name: tuple(label) for name, label in find_labels(params, SimpleNamespace(blobs=blobs)).items()}
    planned = []
    for layer in layers:
        of_layer = find_labels([layer.param], SimpleNamespace(blobs=blobs)).values()
        of_layer = dict(enumerate(map(tuple, of_layer), start=1))  # it is that of bottom 1
        if getattr(kits_class(layer.param), "BOTTOMS", ())[1:2] == ("target",):
            of_layer = {}  # targets need not be whole; the layer itself refuses those that are none
        for index, classes in index_bottoms(layer.param, net.shapes).items():
            of_layer[index] = (classes, None)
            labels.setdefault(layer.param.bottom[index], (classes, None))
        weights = loss_weights(layer.param)
        tops = [index for index, top in enumerate(layer.param.top) if top in weights]
        is_own = not layer.param.top and layer.param.type.endswith("Loss")  # Caffe adds its top
        planned.append(
            {
                "name": layer.param.name,
                "is_python": layer.param.type == "Python",
                "labels": of_layer,
                "losses": [0] if is_own else tops,
                "asked": layer.asked,
                "runs_backward": layer.runs_backward,
            }
        )
    return {
        "layers": planned,
        "labels": labels,
        "weights": net.weights if all(map(os.path.exists, net.weights)) else [],
        "zeros_count": not net.is_constant,
        "backward": net.phase == "train" and net.has_loss,
        "learns": any(layer.runs_backward and learns(layer.param) for layer in layers),
    }


def _ended(net, layers, answer):
    """The finding for a child that came to no end, or was ended."""
    said = re.findall(r"^pylayers is at (backward of )?(\d+)$", answer.log, re.MULTILINE)
    work, layer = ("backward", layers[int(said[-1][1])]) if said and said[-1][0] else ("forward", None)
    if said:
        layer = layers[int(said[-1][1])]
    if answer.status is None:
        found = f"the first forward and backward take longer than {answer.timeout:g} s"
        found += f"; it was in {work} of this layer then" if layer else "; it was not yet at a layer then"
        write = "--run-limit SECONDS for a net as large as that, or --no-run"
        return _finding(net, layer, "warning", found, write)._replace(rule="run-limit")
    if answer.status == -9:
        found = f"{work} {answer.end}, as where memory runs out"
        return _finding(net, layer, "warning", found, "a smaller batch, or --no-run")._replace(rule="run-limit")
    says = reason(answer.log, answer.status) if answer.status > 0 or "Check failed" in answer.log else answer.end
    return _finding(net, layer, "error", f"{work}: {says}", "")._replace(rule="run-error")


def _finding(net, layer, severity, found, write, detail=""):
    if layer is None:
        return Finding(severity, found, write, net.path, net.field.line, None, detail)
    return Finding(severity, found, write, net.path, layer.field.line, layer.param.name, detail)


class _Says:
    """What `try_net` found in a net, as findings."""

    def __init__(self, net, layers):
        self.net, self.layers = net, layers

    def finding(self, each):
        """A rule's name, and a finding, for something found."""
        layer = None if each["layer"] is None else self.layers[each["layer"]]
        rule, severity, found, write, *detail = getattr(self, f"_{each['what'].replace(' ', '_')}")(each, layer)
        if each.get("is_made_up"):
            severity, found = "warning", f"{found}; the net's inputs held random numbers"
        return rule, _finding(self.net, layer, severity, found, write, *detail)

    @staticmethod
    def _raised(each, layer):
        if each["is_kits"]:
            return "run-error", "error", kits_words(each["error"], layer), ""
        at = f" at {each['at']}" if each["at"] else ""
        return "run-error", "error", f"{each['error']}{at}", "", each["traceback"]

    @staticmethod
    def _labels(each, layer):
        bottom, value = each["bottom"], each["value"]
        kind, name = layer.param.type, layer.param.bottom[bottom]
        where = f"({', '.join(map(str, each['where']))})"
        found = f'bottom[{bottom}] "{name}" holds {value:g} at {where}; it must hold whole numbers from 0 to '
        found += f"{each['classes'] - 1}"
        ignore = {
            "Python": f'"ignore_label": {value:g} in param_str',
            "Accuracy": f"accuracy_param {{ ignore_label: {value:g} }}",
        }
        write = ignore.get(kind, f"loss_param {{ ignore_label: {value:g} }}")
        if kind != "Python":
            found += ": Caffe reads out of bounds there"
        if kind in ("Embed", "BatchReindex") or value != int(value):
            return "run-labels", "error", found, "numbers from 0, and as many classes as there are numbers"
        return "run-labels", "error", found, f"{write}, if {value:g} marks what is to be left out; else labels from 0"

    @staticmethod
    def _ignored(each, layer):
        name = layer.param.bottom[each["bottom"]]
        found = f'every label of "{name}" in the first batch is {each["value"]}, which is ignored: nothing counts'
        return "run-labels", "warning", found, "another ignore_label, if that is a class"

    def _not_finite(self, each, layer):
        found, culprit = f"the loss is {each['number']}", each["culprit"]
        if culprit is not None and self.layers[culprit] is not layer:
            name = self.layers[culprit].param.name
            found += f'; the first blob that is {each["first_number"]} is "{each["blob"]}", of layer "{name}"'
        return "run-loss", "error", found, ""

    @staticmethod
    def _zero(each, layer):
        write = "top[0].data[...] = ... in forward" if layer.param.type == "Python" else ""
        return "run-loss", "warning", "the loss of the first batch is exactly 0", write

    @staticmethod
    def _changed(each, layer):
        bottom = each["bottom"]
        found = f'forward changes the data of bottom[{bottom}] "{layer.param.bottom[bottom]}", which other layers read'
        return "run-changed-bottom", "error", found, f"bottom[{bottom}].data.copy() for what is changed"

    @staticmethod
    def _gradient(each, layer):
        bottom = each["bottom"]
        found = f'the gradient of bottom[{bottom}] "{layer.param.bottom[bottom]}" is {each["number"]}'
        return "run-gradient", "error", found, ""

    @staticmethod
    def _no_gradient(each, layer):
        bottom = each["bottom"]
        found = f'backward gives bottom[{bottom}] "{layer.param.bottom[bottom]}" a gradient that is 0 everywhere'
        return "run-gradient", "warning", found, f"bottom[{bottom}].diff[...] = ... in backward"

    @staticmethod
    def _nothing_learns(each, layer):
        return "run-gradient", "warning", "the gradient of every parameter is 0: nothing is learnt", ""
