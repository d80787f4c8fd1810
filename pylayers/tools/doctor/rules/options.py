"""Options that a layer does not read, or that cannot be meant."""

import json

import caffe
from caffe.proto import caffe_pb2

from pylayers.tools.doctor.finding import rule

TOPIC = "Options"

# What every layer of Caffe's own may have, and a Python layer reads none of.
_OWN_PARAMS = [field.name for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields if field.name.endswith("_param")]


_OF_LOSSES = ("loss_param", "softmax_param", "infogain_loss_param")


@rule(TOPIC)
def unread_param(net):
    """What: ``python_param`` in a layer whose type is not Python; ``loss_param``, ``softmax_param`` or another such
    block in a Python layer.
    Why: the layer does not read it, and Caffe does not say so. ``type: "SoftmaxWithLoss"`` left in place beside the
    ``python_param`` of a weighted loss trains without the weights.
    Write: ``type: "Python"``; or the options in ``param_str``, as the finding gives them.
    """
    for layer in net.layers:
        param = layer.param
        if param.type != "Python":
            # A fork's type may read what it likes.
            if param.HasField("python_param") and param.type in caffe.layer_type_list():
                what = param.python_param.layer or "what it names"
                found = f'type "{param.type}" does not read python_param, so {what} is not run'
                yield net.error(layer, ("type",), found, 'type: "Python", or no python_param')
            continue
        for name in _OWN_PARAMS:
            if name != "python_param" and param.HasField(name):
                known = (net.described(layer) or {}).get("options", ())
                found = f"a Python layer does not read {name}, so what it says has no effect"
                report = net.error if name in _OF_LOSSES else net.warning
                yield report(layer, (name,), found, _param_str(param, known))


def _param_str(param, known):
    """The line that says the same to a layer of the kit which takes the options `known`."""
    said = {}
    loss, scores = param.loss_param, param.softmax_param
    if loss.HasField("ignore_label"):
        said["ignore_label"] = loss.ignore_label
    if loss.HasField("normalization"):
        said["normalization"] = caffe_pb2.LossParameter.NormalizationMode.Name(loss.normalization)
    elif loss.HasField("normalize"):
        said["normalization"] = "VALID" if loss.normalize else "BATCH_SIZE"
    for block in (scores, param.infogain_loss_param):
        if block.HasField("axis"):
            said["axis"] = block.axis
    said = {key: value for key, value in said.items() if key in known}
    if param.HasField("infogain_loss_param") and "class_weights" in known:
        said["class_weights"] = ["..."]
    if not said:
        return "what it says in param_str, if the layer takes such an option; else no such block"
    text = json.dumps({**_already(param.python_param.param_str), **said}).replace('["..."]', "[one for each class]")
    return f"param_str: '{text}'"


def _already(text):
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@rule(TOPIC)
def negative_weight(net):
    """What: a loss weight, or a class weight, below 0.
    Why: the loss is then made large, and not small. That is right where two nets compete, and a slip elsewhere.
    Write: the weight without its minus.
    """
    for layer in net.layers:
        for weight in layer.param.loss_weight:
            if weight < 0:
                found = f"loss_weight {weight:g}: training makes this loss large, and not small"
                yield net.warning(layer, ("loss_weight",), found, f"loss_weight: {-weight:g}, unless that is meant")
                break
        param = layer.param.python_param
        options = _already(param.param_str) if layer.param.type == "Python" else {}
        for key, what in (("class_weights", "class"), ("pos_weight", "positive")):
            given = options.get(key)
            below = [weight for weight in _numbers(given if isinstance(given, list) else [given]) if weight < 0]
            if below:
                found = f"a {what} weight of {below[0]:g}: training makes the loss of that class large, and not small"
                write = f'{-below[0]:g} in "{key}", unless that is meant'
                yield net.warning(layer, ("python_param", "param_str"), found, write)


def _numbers(value):
    return [each for each in value if isinstance(each, (int, float))] if isinstance(value, list) else []
