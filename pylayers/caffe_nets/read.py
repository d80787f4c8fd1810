"""Nets read from prototxt: the layers of one phase, the layers that lead to a loss, copies with other loss weights."""

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_facts import is_loss, loss_weights
from pylayers.caffe_nets.labels import kits_class
from pylayers.caffe_nets.text import read_text
from pylayers.errors import UserError

PHASES = {"train": caffe.TRAIN, "test": caffe.TEST}


def read(path, phase):
    """Reads a prototxt file.

    Args:
        path: the file's path.
        phase: "train" or "test".

    Returns:
        A NetParameter with the layers of that phase.

    Raises:
        UserError: there is no such file, or it holds no net with a loss.
    """
    return parse(read_text(path), phase, path)


def read_net(path, phase):
    """A NetParameter with the layers that a prototxt file has in a phase; there need be no loss.

    Args:
        path: of the file.
        phase: caffe.TRAIN or caffe.TEST.

    Raises:
        UserError: there is no such file, or it holds no net.
    """
    return _of_phase(_parse_layers(read_text(path), path), phase)


def parse(text, phase, name="the net"):
    """Makes a NetParameter from prototxt text, as `read` does from a file. `name` begins the error messages."""
    param = _parse_layers(text, name)
    _of_phase(param, PHASES[phase])
    if not any(map(is_loss, param.layer)):
        raise UserError(
            f"{name} has no loss in phase {phase.upper()}: "
            "no layer has a loss_weight, and none is a loss of Caffe's own"
        )
    _name_tops_of_losses(param.layer)
    return param


def _of_phase(param, phase):
    kept = [layer for layer in param.layer if included(layer, param.state, phase)]
    del param.layer[:]
    param.layer.extend(kept)
    return param


def _name_tops_of_losses(layers):
    """Gives a top to each of Caffe's own losses that has none, which Caffe would do without telling its name."""
    taken = {top for layer in layers for top in layer.top}
    for layer in layers:
        if is_loss(layer) and not layer.top:
            layer.top.append(next(name for name in (layer.name, f"{layer.name}_loss") if name not in taken))
            taken.update(layer.top)


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


def included(layer, state, phase):
    """Whether a layer is in a net, by its `include` and `exclude`: the rule of FilterNet in Caffe's net.cpp.

    Args:
        layer: a LayerParameter.
        state: the net's NetState, of which the level and the stages are read.
        phase: caffe.TRAIN or caffe.TEST.
    """

    def meets(rule):
        return not (
            (rule.HasField("phase") and rule.phase != phase)
            or (rule.HasField("min_level") and state.level < rule.min_level)
            or (rule.HasField("max_level") and state.level > rule.max_level)
            or not set(rule.stage) <= set(state.stage)
            or set(rule.not_stage) & set(state.stage)
        )

    return any(map(meets, layer.include)) if layer.include else not any(map(meets, layer.exclude))


def unweighted_losses(param):
    """The losses of a net whose loss weight is 0, a set of tops; not those that another layer takes."""
    taken = {bottom for layer in param.layer for bottom in layer.bottom}
    found = set()
    for layer in param.layer:
        is_loss = layer.type.endswith("Loss") or kits_class(layer) or (layer.type == "Python" and layer.loss_weight)
        if is_loss and layer.top and not loss_weights(layer) and layer.top[0] not in taken:
            found.add(layer.top[0])
    return found


def lead_to_loss(layers, also=()):
    """The losses, the layers that they and the blobs in `also` depend on, and the layers without bottoms."""
    wanted, kept = set(also), []
    for layer in reversed(layers):
        if not layer.bottom or loss_weights(layer) or wanted & set(layer.top):
            kept.append(layer)
            wanted |= set(layer.bottom)
    return kept[::-1]


def with_loss_weight(param, factor, also=()):
    """Copies the layers of a NetParameter that lead to a loss, or to a blob in `also`; each loss weight times `factor`.

    The copy has force_backward, so that gradients come down to the inputs.
    """
    scaled = caffe_pb2.NetParameter()
    scaled.CopyFrom(param)
    scaled.force_backward = True
    del scaled.layer[:]
    scaled.layer.extend(lead_to_loss(param.layer, also))
    for layer in scaled.layer:
        weights = loss_weights(layer)
        if weights:
            layer.loss_weight[:] = [factor * weights.get(top, 0) for top in layer.top]
    return scaled
