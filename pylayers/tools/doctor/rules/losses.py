"""Losses: their loss weights, and whether anything learns from them."""

import json

import caffe
from caffe.proto import caffe_pb2

from pylayers.caffe_facts import is_loss
from pylayers.tools.doctor.finding import Finding, rule
from pylayers.tools.doctor.net import names

TOPIC = "Losses"


@rule(TOPIC)
def loss_weight(net):
    """What: a Python loss without ``loss_weight``.
    Why: Caffe's own losses have a loss weight of 1. A Python layer has none, so that Caffe takes it for no loss,
    and it trains nothing.
    Write: ``loss_weight: 1`` in the layer, with ``loss_weight: 0`` for each further top.
    """
    yield from missing_loss_weights(net)


@rule(TOPIC)
def loss_top(net):
    """What: a Python loss without ``top``.
    Why: Caffe adds a missing top to its own losses alone.
    Write: ``top: "loss" loss_weight: 1`` in the layer.
    """
    yield from missing_tops(net)


def missing_tops(net):
    """Findings for the Python layers of a net that are losses and have no top."""
    for layer in net.python_layers():
        param = layer.param
        is_loss_layer = (net.described(layer) or {}).get("is_loss_layer")
        if param.top or not param.bottom or not (is_loss_layer or "loss" in param.python_param.layer.lower()):
            continue
        weight = "" if param.loss_weight else " loss_weight: 1"
        found = "a Python loss without top: Caffe adds a missing one to its own losses alone"
        yield net.error(layer, (), found, f'top: "{param.name or "loss"}"{weight} in the layer')


def missing_loss_weights(net):
    """Findings for the Python layers of a net that look like losses and have no loss weight."""
    if net.phase != "train":
        return
    for layer in net.python_layers():
        param = layer.param
        if param.loss_weight or layer.is_under_loss or not param.bottom or not param.top:
            continue
        if (net.described(layer) or {}).get("is_loss_layer") or "loss" in param.python_param.layer.lower():
            report = net.error
        elif any("loss" in name.lower() for name in (param.name, *param.top)):
            # It may be a number to look at, and no loss, unless a solver's net has no other loss.
            report = net.error if net.is_trained and not net.has_loss else net.warning
        else:
            continue
        takers = [taker for taker in net.takers(layer) if taker.param.type != "Silence"]
        found = "a Python layer without loss_weight is no loss to Caffe: it trains nothing"
        found += f"; what takes it, {names(takers)}, leads to no loss either" if takers else ""
        more = " loss_weight: 0" * (len(param.top) - 1)
        yield report(layer, (), found, f"loss_weight: 1{more} in the layer, or loss_weight: 0 where that is meant")


@rule(TOPIC)
def no_loss(net):
    """What: a net that is trained, and in which nothing is a loss.
    Why: no gradient comes from anywhere, and nothing is learnt.
    Write: ``loss_weight: 1`` in the layer whose top is to become small, or a layer such as EuclideanLoss.
    """
    # `loss_weight` reports layers that look like losses. A net in the format before 2014 shows no layers here.
    if (
        net.phase != "train"
        or net.has_loss
        or not net.layers
        or any(missing_loss_weights(net))
        or any(missing_tops(net))
    ):
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


@rule(TOPIC)
def nothing_learns(net):
    """What: a net that is trained, with a loss and without a parameter below it that learns.
    Why: with ``lr_mult: 0`` everywhere below, the solver changes nothing.
    Write: ``lr_mult: 1`` in a ``param`` of a layer below.
    """
    losses = [layer for layer in net.layers if is_loss(layer.param)]
    # A Python layer may have parameters of its own; it does not say. A loss on the kit's base class has none.
    others = [layer for layer in net.python_layers() if not (net.described(layer) or {}).get("is_loss_layer")]
    others += [layer for layer in net.layers if layer.param.type not in caffe.layer_type_list()]
    if net.is_trained and losses and not others and not any(layer.is_reached for layer in losses):
        found = "below no loss is there a parameter whose lr_mult is not 0: nothing is learnt"
        yield net.warning(losses[0], (), found, "lr_mult: 1 in a param of a layer below")


def _may_be_loss(layer):
    """Whether a Python layer compares what is learnt with what is read: no more than a guess."""
    sources = [source for source in layer.sources if source is not None]
    reads = any(not source.param.bottom and source.param.type != "Input" for source in sources)
    return reads and any(source.is_reached for source in sources)


def _is_for_training(layer):
    """Whether a layer gives data, and does so for phase TRAIN."""
    phases = [rule.phase for rule in layer.param.include if rule.HasField("phase")]
    return not layer.param.bottom and caffe_pb2.TRAIN in phases


@rule(TOPIC)
def loss_weight_count(net):
    """What: a ``loss_weight`` for some tops, and not for all.
    Why: Caffe takes one for each top, or none.
    Write: ``loss_weight: 1 loss_weight: 0`` for a loss with a second top.
    """
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


# Losses that take the softmax themselves, and the layers below them that it would be taken of twice.
_TAKE_SCORES = {
    "SoftmaxWithLoss": "softmax",
    "InfogainLoss": "softmax",
    "SigmoidCrossEntropyLoss": "sigmoid",
    "WeightedSoftmaxLossLayer": "softmax",
    "SigmoidCrossEntropyLossLayer": "sigmoid",
}
_TAKE_AN_ACTIVATION = ("DiceLossLayer", "FocalLossLayer")
_GIVE_PROBABILITIES = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_PASS_ON = ("Dropout", "Reshape", "Flatten", "Split")


def _taken_of_scores(param):
    """What a loss takes of its first bottom: "softmax", "sigmoid" or something else."""
    if param.type != "Python":
        return _TAKE_SCORES.get(param.type)
    python = param.python_param
    if python.module != "pylayers":
        return None
    if python.layer not in _TAKE_AN_ACTIVATION:
        return _TAKE_SCORES.get(python.layer)
    try:
        return str(dict(json.loads(python.param_str or "{}")).get("activation", "SOFTMAX")).lower()
    except (TypeError, ValueError):  # another finding
        return None


@rule(TOPIC)
def softmax_twice(net):
    """What: a Softmax or LogSoftmax below a loss that takes the softmax itself; or a Sigmoid below one that takes the
    sigmoid itself.
    Why: the loss takes scores. Of probabilities it takes the softmax or the sigmoid a second time: all classes come out
    nearly equally likely, and the net learns slowly, or not at all.
    Write: the bottom of that layer as the loss's own bottom; or ``"activation": "NONE"`` in a Dice loss.
    """
    for layer in net.layers:
        kind = _taken_of_scores(layer.param)
        source = layer.sources[0] if layer.sources and kind else None
        while source is not None and source.param.type in _PASS_ON:
            source = source.sources[0] if source.sources else None
        if source is not None and _GIVE_PROBABILITIES.get(source.param.type) == kind:
            what = layer.param.python_param.layer or layer.param.type
            found = f'{what} takes the {kind} itself, and "{source.param.name}" below it is a {source.param.type}'
            write = f'bottom: "{source.param.bottom[0]}"' if source.param.bottom else ""
            yield net.warning(layer, ("bottom",), found, write)
