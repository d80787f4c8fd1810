"""The net as a whole."""

import caffe

from pylayers.caffe_facts import WITH_OPENCV, parameters
from pylayers.tools.doctor.finding import Finding, nearest, rule
from pylayers.tools.doctor.forks import own_layer

TOPIC = "The net as a whole"


@rule(TOPIC)
def old_format(net):
    """What: ``layers { }``, the format before 2014.
    Why: it has no Python layers, and no other rule sees anything of the net. Caffe alone has looked at it.
    Write: ``layer { }``, as Caffe's ``upgrade_net_proto_text`` writes it.
    """
    if net.param.layers:
        yield Finding(
            "warning",
            "layers { } is the format before 2014, which has no Python layers; Caffe alone has looked at it",
            f"layer {{ }}, as Caffe's own tool does: upgrade_net_proto_text {net.path} new.prototxt",
            net.path,
            net.field.line_of("layers"),
        )


@rule(TOPIC)
def same_name(net):
    """What: two layers of one name, both with parameters.
    Why: a file of weights, and the test net beside the train net, find parameters by the layer's name. Both layers get
    those of one, or Caffe ends as the shapes differ.
    Write: a name of its own for each; ``param { name: "..." }`` in both where they are to share.
    """
    first = {}
    for layer in net.layers:
        if not parameters(layer.param):
            continue
        other = first.setdefault(layer.param.name, layer)
        shared = [spec.name for spec in layer.param.param]
        is_meant = all(shared) and shared == [spec.name for spec in other.param.param]
        if other is not layer and not (shared and is_meant):
            found = f"the layer at line {other.field.line} has this name too, and parameters of its own: a file of "
            found += "weights, or the test net, takes the one's for the other's"
            yield net.warning(layer, ("name",), found, f'name: "{layer.param.name}_2"')


@rule(TOPIC)
def layer_type(net):
    """What: a layer of a type that this Caffe does not have.
    Why: Caffe ends with "Unknown layer type". It is a fork's, or a slip, or it needs OpenCV or Python layers.
    Write: the kit's own layer, where it has one for it; else what the finding gives.
    """
    for layer in net.layers:
        kind = layer.param.type
        if kind in caffe.layer_type_list():
            continue
        near = own_layer(kind) or _slip_of_type(kind)
        if kind in WITH_OPENCV:
            near = "a Caffe that is built with OpenCV, make CAFFE=--with-opencv"
        found = f'this Caffe has no layer type "{kind}"' if kind else "the layer has no type"
        yield net.error(
            layer, ("type",), found, near or "a type that Caffe has, or the fork of Caffe that has this one"
        )


def _slip_of_type(kind):
    near = nearest(kind, caffe.layer_type_list(), closeness=0.8)
    # A type with a word more, such as ROIPooling, is another one.
    return f'type: "{near}"' if near and abs(len(near) - len(kind)) < 3 else None
