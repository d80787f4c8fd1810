"""Gradients: where they are asked for, and cannot be had."""

from pylayers.caffe_facts import CONSTANT_TARGET_LOSSES, NO_BACKWARD, is_loss, learns
from pylayers.tools.doctor.finding import rule
from pylayers.tools.doctor.net import names

TOPIC = "Gradients"


@rule(TOPIC)
def label_gradient(net):
    """What: labels or weights that depend on parameters which learn, or a ``propagate_down`` that asks for their
    gradient.
    Why: a label has no gradient. Caffe's own losses end the process when asked for it; the kit's give zeros, and
    the parameters learn nothing from this loss.
    Write: ``propagate_down: true propagate_down: false`` in the layer, or ``lr_mult: 0`` below.
    """
    for layer in net.layers if net.phase == "train" else ():
        if layer.param.type in CONSTANT_TARGET_LOSSES:
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
            elif source.param.type not in NO_BACKWARD:
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


@rule(TOPIC)
def loss_weight_ignored(net):
    """What: a Python layer whose backward never reads the diff of its top, where that is not 1: a loss with another
    loss weight, or a layer below another one that leads to a loss.
    Why: the loss weight, and what comes from above, stand in ``top[0].diff``. A backward that does not multiply by it
    trains as if the loss weight were 1. It is found in the code: what a helper does is not seen.
    Write: ``bottom[0].diff[...] = top[0].diff[0] * ...``, with ``float(top[0].diff)`` where the top has the shape ().
    """
    for layer in net.python_layers() if net.phase == "train" else ():
        ignored = (net.described(layer) or {}).get("weight_ignored")
        weights = [weight for weight in layer.param.loss_weight if weight not in (0, 1)]
        in_place = set(layer.param.top) & set(layer.param.bottom)  # the diff of its bottom is that of its top
        if not ignored or in_place or not (weights or (layer.is_under_loss and layer.runs_backward)):
            continue
        what = f"the loss_weight {weights[0]:g}" if weights else f"the gradient from above, {names(net.takers(layer))},"
        read = "loss_weight" if ignored["method"] == "backward_cpu" else "top"
        found = f"{ignored['method']} at {ignored['at']} never reads its {read}: {what} has no effect"
        write = ignored["write"] if weights or is_loss(layer.param) else "top[0].diff"
        yield net.warning(layer, ("loss_weight",), found, f"bottom[0].diff[...] = {write} * ...")


@rule(TOPIC)
def no_backward(net):
    """What: a layer without a backward, such as ArgMax, of which Caffe asks one.
    Why: Caffe ends the process there. ``force_backward: true`` asks every layer.
    Write: ``propagate_down: false`` in the layer that takes it, or no ``force_backward``.
    """
    for layer in net.layers if net.phase == "train" else ():
        if layer.param.type not in NO_BACKWARD or not layer.runs_backward or not any(layer.asked):
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
                f"propagate_down: false in the layer that takes it, {names(net.takers(layer))}, one for each bottom",
            )
