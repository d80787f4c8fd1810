"""The net as a whole."""

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
