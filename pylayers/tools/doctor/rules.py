"""`pylayers doctor`: what can be wrong in a net. One rule, one function; its name is the rule's."""

import difflib
import math
import os
from pathlib import Path
from typing import NamedTuple

from caffe.proto import caffe_pb2

from pylayers.caffe_nets import read as nets
from pylayers.gradient_check import LABEL_LOSSES
from pylayers.tools.doctor.environment import Finding, ask
from pylayers.tools.doctor.nets import build, is_loss, learns
from pylayers.tools.doctor.probe import CALLED, CALLED_BY_ARRAY_LOSS_LAYER

# Functions that take a `doctor_net.Net` and yield what is wrong in it. Those of the second kind ask for blobs' shapes.
RULES, RULES_OF_SHAPES = {}, {}


def check(read, gpus):
    """Checks the nets of a file: by the rules and then, where these find no error, by building them with Caffe.

    Args:
        read: from `doctor_net.read`.
        gpus: what ``--gpu`` says, or None.

    Returns:
        A list of findings, each once.
    """
    phases = {}  # of each finding, to say once what is wrong in both
    modules, path = _import_modules(read.nets)
    for net in read.nets:
        net.modules, net.gpus = modules, gpus
        found = _apply(RULES, net)
        if not any(finding.severity == "error" for finding in found):
            found += build(net, path)
        if net.shapes is not None:
            found += _apply(RULES_OF_SHAPES, net)
        for finding in found:
            phases.setdefault(finding, set()).add(net.phase)
    return [
        finding._replace(found=f"{finding.found}, in phase {max(where).upper()}")
        if finding.rule == "build" and where != {net.phase for net in read.nets}
        else finding
        for finding, where in phases.items()
    ]


def _apply(rules, net):
    return [finding._replace(rule=name) for name, rule in rules.items() for finding in rule(net)]


class Module(NamedTuple):
    """What the probe says of a module of Python layers."""

    imported: bool
    names: list  # all that it has
    classes: dict  # from class to what is known of it, see `pylayers.tools.doctor.probe`
    failure: str  # why it is not imported, in a line
    detail: str  # the traceback
    folder: str  # where it was found, if that is not where Caffe would search


def _import_modules(all_nets):
    """Imports the modules of all Python layers, each in a process of its own.

    Returns:
        A dict from name to `Module`, and the folders to search first so that all that are there are found.
    """
    wanted, folders = {}, {}
    for net in all_nets:
        for layer in net.python_layers():
            param = layer.param.python_param
            wanted.setdefault(param.module, {}).setdefault(param.layer, set()).add(param.param_str)
            # Where users put their modules: here, and beside the net.
            folders.setdefault(param.module, {})[os.getcwd()] = None
            folders[param.module][str(Path(net.path).resolve().parent)] = None
    modules = {}
    for name, layers in wanted.items():
        layers = {layer: sorted(param_strs) for layer, param_strs in layers.items()}
        modules[name] = _import_module(name, layers, list(folders[name]))
    return modules, sorted({module.folder for module in modules.values() if module.folder})


def _import_module(name, layers, folders):
    if not name:
        return Module(False, [], {}, "python_param names no module", "", "")
    answer = ask(do="classes", module=name, layers=layers)
    missing = (answer.found or {}).get("missing")
    folder = ""
    if missing and missing.split(".")[0] == name.split(".")[0]:
        pattern = str(Path(*name.split(".")))
        places = [each for each in folders for end in _MODULE_FILES if list(Path(each).glob(pattern + end))]
        folder = next(iter(places), "")
        if folder:
            answer = ask(do="classes", module=name, layers=layers, path=[folder])
    if answer.found is None:
        return Module(False, [], {}, f"its import {answer.end}", answer.log.strip(), folder)
    if "traceback" in answer.found:
        return Module(False, [], {}, answer.found["error"], answer.found["traceback"].strip(), folder)
    return Module(True, answer.found["names"], answer.found["classes"], "", "", folder)


_MODULE_FILES = (".py", "/__init__.py", "*.so")


def _rule(function):
    RULES[function.__name__.replace("_", "-")] = function
    return function


def _rule_of_shapes(function):
    RULES_OF_SHAPES[function.__name__.replace("_", "-")] = function
    return function


@_rule
def old_format(net):
    """A net in the format before 2014, of which no other rule sees anything."""
    if net.param.layers:
        yield Finding(
            "warning",
            "layers { } is the format before 2014, which has no Python layers; Caffe alone has looked at it",
            f"layer {{ }}, as Caffe's own tool does: upgrade_net_proto_text {net.path} new.prototxt",
            net.path,
            net.field.line_of("layers"),
        )


@_rule
def module_path(net):
    """A module that lies here or beside the net, where Python does not search: Caffe adds no folder of its own."""
    for layer in net.python_layers():
        name = layer.param.python_param.module
        folder = net.modules[name].folder
        if folder:
            here = "the current folder" if folder == os.getcwd() else folder
            yield net.error(
                layer,
                ("python_param", "module"),
                f"the module {name} lies in {here}, where the caffe command does not look for it",
                f"PYTHONPATH={os.path.relpath(folder)} in the environment, such as "
                f"PYTHONPATH={os.path.relpath(folder)} caffe train ...",
            )


@_rule
def module_import(net):
    """A module that cannot be imported."""
    for layer in net.python_layers():
        name = layer.param.python_param.module
        if not net.modules[name].imported:
            yield net.error(
                layer,
                ("python_param", "module"),
                f"the module {name!r} cannot be imported: {net.modules[name].failure}",
                "a module that python -c 'import ...' imports, from any folder" if name else 'module: "pylayers"',
                net.modules[name].detail,
            )


@_rule
def layer_class(net):
    """A class that the module does not have, or that is no layer."""
    for layer in net.python_layers():
        param = layer.param.python_param
        module = net.modules[param.module]
        if not module.imported:
            continue
        found = net.described(layer)
        if found is None:
            near = [name for name in (param.layer, f"{param.layer}Layer") if name in module.names]
            near = near or difflib.get_close_matches(param.layer, module.names, n=1)
            known = ", ".join(name for name in module.names if name.endswith("Layer")) or "no class named ...Layer"
            yield net.error(
                layer,
                ("python_param", "layer"),
                f"the module {param.module} has no {param.layer or 'layer without a name'}",
                f'layer: "{near[0]}"' if near else f"a class of the module; it has {known}",
            )
        elif not found["is_layer"]:
            yield net.error(
                layer,
                ("python_param", "layer"),
                f"{param.layer} of {param.module} is no subclass of caffe.Layer",
                f"class {param.layer}(caffe.Layer):",
            )


@_rule
def method_signature(net):
    """A method that Caffe or the kit's base class calls, and the class does not have, or has with other parameters."""
    for layer in net.python_layers():
        for name, method in (net.described(layer) or {}).get("methods", {}).items():
            parameters = ", ".join(method["expected"]) or "nothing"
            write = f"def {name}({', '.join(('self', *method['expected']))}):"
            base = "ArrayLossLayer" if name in CALLED_BY_ARRAY_LOSS_LAYER else "LossLayer"
            caller = "Caffe" if name in CALLED else base
            place = f"{layer.param.python_param.module}.{layer.param.python_param.layer}"
            is_backward = name.startswith(("backward", "gradients"))
            if method["problem"] == "parameters":
                found = f"{place} has {method['found']} at {method['at']}; {caller} calls it with {parameters}"
                yield net.error(layer, ("python_param", "layer"), found, write)
            elif method["problem"] == "missing" and (not is_backward or (net.phase == "train" and layer.runs_backward)):
                yield net.error(layer, ("python_param", "layer"), f"{place} has no method {name}", write)


@_rule
def loss_weight(net):
    """A Python loss that Caffe takes for no loss: nothing is back-propagated from it."""
    if net.phase != "train":
        return
    for layer in net.python_layers():
        param = layer.param
        if param.loss_weight or layer.is_under_loss or not param.bottom:
            continue
        if (net.described(layer) or {}).get("is_loss_layer") or "loss" in param.python_param.layer.lower():
            report = net.error
        elif any("loss" in name.lower() for name in (param.name, *param.top)):
            # It may be a number to look at beside the loss, and no loss; but not where a solver's net has no other.
            report = net.error if net.is_trained and not net.has_loss else net.warning
        else:
            continue
        takers = [taker for taker in net.takers(layer) if taker.param.type != "Silence"]
        found = "a Python layer without loss_weight is no loss to Caffe: it trains nothing"
        found += f"; what takes it, {_names(takers)}, leads to no loss either" if takers else ""
        more = " loss_weight: 0" * (len(param.top) - 1)
        yield report(layer, (), found, f"loss_weight: 1{more} in the layer, or loss_weight: 0 where that is meant")


@_rule
def no_loss(net):
    """A net that is trained and in which nothing is a loss."""
    # What looks like a loss is for the rule before; the format before 2014 shows no layers here.
    if net.phase != "train" or net.has_loss or not net.layers or any(loss_weight(net)):
        return
    candidate = next(filter(_may_be_loss, reversed(net.python_layers())), None)
    is_meant = any(layer.param.loss_weight for layer in net.layers)  # a weight of 0 that is written down
    if net.is_trained:
        severity = "warning" if is_meant else "error"
    elif not is_meant and (candidate or any(map(_is_for_training, net.layers))):
        severity = "warning"
    else:  # a net by itself may be there to be deployed
        return
    found = "no layer has a loss weight, and none is a loss of Caffe's own: nothing is learnt"
    if candidate:
        more = " loss_weight: 0" * (len(candidate.param.top) - 1)
        finding = net.error(candidate, (), found, f"loss_weight: 1{more} in the layer, if this is the loss")
    else:
        write = "loss_weight: 1 in the layer whose top is to become small, or a layer such as EuclideanLoss"
        finding = Finding("error", found, write, net.path, net.field.line)
    yield finding._replace(severity=severity)


@_rule
def nothing_learns(net):
    """A net that is trained, with a loss and without a parameter below it that learns."""
    losses = [layer for layer in net.layers if is_loss(layer.param)]
    # A Python layer may have parameters of its own; it does not say. A loss on the kit's base class has none.
    others = [layer for layer in net.python_layers() if not (net.described(layer) or {}).get("is_loss_layer")]
    if net.is_trained and losses and not others and not any(layer.is_reached for layer in losses):
        found = "below no loss is there a parameter whose lr_mult is not 0: nothing is learnt"
        yield net.warning(losses[0], (), found, "lr_mult: 1 in a param of a layer below")


def _may_be_loss(layer):
    """Whether a Python layer compares what is learnt with what is read: no more than a guess."""
    sources = [source for source in layer.sources if source is not None]
    reads = any(not source.param.bottom and source.param.type != "Input" for source in sources)
    return reads and any(source.is_reached for source in sources)


def _is_for_training(layer):
    """Whether it gives data, and that in phase TRAIN alone."""
    phases = [rule.phase for rule in layer.param.include if rule.HasField("phase")]
    return not layer.param.bottom and caffe_pb2.TRAIN in phases


@_rule
def loss_weight_count(net):
    """A loss_weight for some tops, and not for all."""
    for layer in net.layers:
        count, tops = len(layer.param.loss_weight), max(1, len(layer.param.top))
        if count not in (0, tops):
            write = " ".join([f"loss_weight: {weight:g}" for weight in layer.param.loss_weight[:tops]])
            yield net.error(
                layer,
                ("loss_weight",),
                f"{count} loss_weight for {tops} tops: Caffe takes one for each top, or none",
                write + " loss_weight: 0" * (tops - count),
            )


@_rule
def label_gradient(net):
    """Labels or weights from a layer that learns, from which no gradient comes to it."""
    for layer in net.layers if net.phase == "train" else ():
        if layer.param.type in (*LABEL_LOSSES, "SigmoidCrossEntropyLoss"):
            constants = {1: "label"}
        else:
            known = net.described(layer) or {}
            names = enumerate(known.get("bottoms", ()))
            constants = {index: name for index, name in names if name in known["constants"]}
        for index, name in constants.items():
            if not layer.runs_backward or index >= len(layer.sources) or not layer.asked[index]:
                continue
            source, is_python = layer.sources[index], layer.param.type == "Python"
            flags = " ".join(f"propagate_down: {str(other != index).lower()}" for other in range(len(layer.sources)))
            blob = f'bottom "{layer.param.bottom[index]}" ({name})'
            if source is None or not source.is_reached:
                if not is_python:
                    found = f"propagate_down asks for the gradient of {blob}, and Caffe ends with that"
                    yield net.error(layer, ("propagate_down",), found, flags)
            elif source.param.type not in nets.NO_BACKWARD:
                learner = _learner(source).param.name
                found = f'{blob} depends on the parameters of "{learner}"; '
                found += (
                    "the gradient that it gets from this loss is 0" if is_python else "Caffe ends with its gradient"
                )
                report = net.warning if is_python else net.error
                yield report(layer, ("bottom",), found, f'{flags} in the layer, or lr_mult: 0 in "{learner}"')


def _learner(layer):
    """The nearest layer at or below `layer` that learns."""
    layers = [layer]
    for each in layers:
        if learns(each.param):
            return each
        layers += [source for source in each.sources if source is not None and source.is_reached]
    raise AssertionError(f"{layer.param.name} is reached by no gradient")


@_rule
def no_backward(net):
    """A layer without a backward, of which Caffe asks one."""
    for layer in net.layers if net.phase == "train" else ():
        if layer.param.type not in nets.NO_BACKWARD or not layer.runs_backward or not any(layer.asked):
            continue
        found = f"{layer.param.type} has no backward, and Caffe ends where it asks for it: "
        if net.param.force_backward:
            write = "no force_backward: true, or labels from a data layer"
            yield net.error(layer, ("type",), found + "force_backward asks every layer", write)
        else:
            yield net.error(
                layer,
                ("type",),
                f'{found}below it "{_learner(layer).param.name}" learns',
                f"propagate_down: false in the layer that takes it, {_names(net.takers(layer))}, one for each bottom",
            )


def _names(layers):
    return ", ".join(f'"{layer.param.name}"' for layer in layers)


@_rule
def param_str(net):
    """A param_str that the layer refuses."""
    for layer in net.python_layers():
        param = layer.param.python_param
        error = (net.described(layer) or {}).get("param_str_errors", {}).get(param.param_str)
        if error:
            yield net.error(layer, ("python_param", "param_str"), f"{param.layer}: {error}", "")


class _Fixed(NamedTuple):
    """A 1×1 convolution to one channel that may be meant to sum channels, with weights that stay as they are."""

    value: float  # of the filler
    is_said: bool  # the filler's type stands in the net
    is_frozen: bool
    trains_bias: bool
    is_before_loss: bool  # one that a channel sum is for


def _fixed(net, layer):
    """A layer as `_Fixed`; None where it is no such convolution, or has weights to be learned."""
    param = layer.param.convolution_param
    sizes = [*param.kernel_size, *([param.kernel_h, param.kernel_w] if param.HasField("kernel_h") else [])]
    filler = param.weight_filler
    if layer.param.type != "Convolution" or set(sizes) != {1} or param.num_output != 1 or filler.type != "constant":
        return None
    rates = [spec.lr_mult for spec in layer.param.param] + [1, 1]
    takers = net.takers(layer)
    return _Fixed(
        filler.value,
        param.HasField("weight_filler"),
        rates[0] == 0,
        param.bias_term and rates[1] != 0,
        any(taker.param.type in ("EuclideanLoss", "Python") for taker in takers),
    )


@_rule
def fixed_convolution_zero(net):
    """A fixed 1×1 convolution of zeros: its top is 0, and the loss constant."""
    for layer in net.layers if net.phase == "train" else ():
        fixed = _fixed(net, layer)
        if fixed is None or fixed.value != 0:
            continue
        is_meant = fixed.is_said and not layer.param.convolution_param.bias_term and fixed.is_before_loss
        if fixed.is_frozen or is_meant:
            found = "a fixed 1×1 convolution of zeros, the constant filler's default: its top is always 0"
            if not fixed.is_frozen:
                found = "a 1×1 convolution that is to sum channels starts with zeros, the constant filler's default"
            # Without a filler the weights may be meant to come from a file.
            report = net.error if fixed.is_said and not net.weights else net.warning
            if report == net.warning:
                found += ", if no file of weights has the layer"
            path = ("convolution_param", "weight_filler")
            yield report(layer, path, found, 'weight_filler { type: "constant" value: 1 }')


@_rule
def fixed_convolution_trained(net):
    """A 1×1 convolution that is to sum channels, but is trained: away from the sum, to a smaller loss."""
    for layer in net.layers if net.phase == "train" else ():
        fixed = _fixed(net, layer)
        if fixed is None or not fixed.is_said:
            continue
        report = net.error if fixed.is_before_loss else net.warning
        may_be_sum = not layer.param.convolution_param.bias_term and (fixed.value or fixed.is_before_loss)
        if may_be_sum and not fixed.is_frozen:
            yield report(
                layer,
                ("param", "lr_mult"),
                "a 1×1 convolution that is to sum channels is trained: the solver makes its weights such that the loss "
                "is small",
                "param { lr_mult: 0 decay_mult: 0 } in the layer",
            )
        elif fixed.is_frozen and fixed.trains_bias:
            yield report(
                layer,
                ("convolution_param",),
                "a fixed 1×1 convolution has a bias, and that is trained",
                "bias_term: false in convolution_param",
            )


@_rule
def multi_gpu(net):
    """A Python layer in a net for several GPUs, which the caffe command refuses."""
    several = net.gpus == "all" or (net.gpus and "," in net.gpus)
    for layer in net.python_layers()[:1] if several and net.phase == "train" else ():
        report = net.warning if net.gpus == "all" else net.error
        found = f"Python layers do not work with caffe train --gpu {net.gpus}"
        found += ", if that is more than one GPU" if net.gpus == "all" else ""
        write = "--gpu 0, or python/train.py of Caffe's source, one process a GPU"
        yield report(layer, ("type",), found, write)


@_rule_of_shapes
def reduction_axes(net):
    """A Reduction before a loss that takes more axes together than the one that is named."""
    for layer in net.layers:
        param = layer.param.reduction_param
        if layer.param.type != "Reduction" or not any(
            nets.loss_weights(taker.param) or taker.param.type == "Python" for taker in net.takers(layer)
        ):
            continue
        shape = net.shapes[layer.param.bottom[0]]
        first = param.axis % len(shape) if shape else 0
        trailing = shape[first + 1 :]
        if first and math.prod(trailing) > 1:
            operation = caffe_pb2.ReductionParameter.ReductionOp.Name(param.operation)
            values = "×".join(map(str, shape[first:]))
            yield net.warning(
                layer,
                ("reduction_param", "axis"),
                f"Reduction takes the {operation} over axis {first} and all after it, {values} values to one; right if "
                "that is meant",
                f"for axis {first} alone ChannelSumEuclideanLossLayer, or a fixed 1×1 convolution before EuclideanLoss",
            )
