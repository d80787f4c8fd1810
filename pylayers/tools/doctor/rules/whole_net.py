"""The net as a whole."""

from pylayers.caffe_facts import parameters
from pylayers.tools.doctor.finding import Finding, rule

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
