"""What a user of several processes is told once, at the start: where they are not one process with their batches."""

from caffe.proto import caffe_pb2

from pylayers.array_layer import ArrayLossLayer

_LABELLED = ("SoftmaxWithLoss", "InfogainLoss", "SigmoidCrossEntropyLoss")
_NORMALIZATIONS = caffe_pb2.LossParameter


def notes(layers, net, ranks, local_normalizer):
    """Sentences on the layers of the train net.

    Args:
        layers: LayerParameters.
        net: the net that Caffe has made of them.
        ranks: a `Ranks`.
        local_normalizer: whether the kit's losses, too, divide by the Z of their own process.
    """
    if ranks.count == 1:
        return
    hosts = len(set(ranks.gather(ranks.host)))
    yield (
        f"{ranks.count} processes on {hosts} host{'s' if hosts > 1 else ''}. To mpirun, SIGUSR1 means snapshot, and "
        "SIGUSR2 snapshot and stop; Ctrl-C ends all, and the last whole snapshot stays"
    )
    norms = [layer.name for layer in layers if layer.type == "BatchNorm"]
    if norms:
        yield f"BatchNorm ({_names(norms)}) has the mean and variance of each process's own batch"
    random = [layer.name for layer in layers if layer.type == "Dropout" or _draws(layer.transform_param)]
    if random:
        yield f"What is drawn at random ({_names(random)}) is another in each process"
    made = dict(zip(net._layer_names, net.layers))
    python_losses = [layer.name for layer in layers if layer.type == "Python" and any(layer.loss_weight)]
    own = [name for name in python_losses if divides_itself(made[name])]
    if own:
        yield (
            f"The loss of a Python layer ({_names(own)}) is averaged over the processes. If it divides by a number of "
            "its labels, let LossLayer.divisor make that the number in all processes"
        )
    uneven = [layer.name for layer in layers if _divides_unevenly(layer)]
    if uneven:
        yield (
            f"Caffe's own loss ({_names(uneven)}) divides by the labels of its own process that count; where these "
            "differ in number, the steps are not those of one process. Losses of pylayers divide by those of all"
        )
    sums = [layer.name for layer in layers if _is_sum(layer)]
    if sums:
        yield f"Caffe's own loss ({_names(sums)}), a sum without a divisor, is averaged over the processes"
    if local_normalizer:
        yield "--local-normalizer: each process divides its losses by its own Z"


def _draws(transform):
    return transform.mirror or bool(transform.crop_size)


def divides_itself(layer):
    """Whether a loss of the user's own may have a Z that the kit does not know."""
    if type(layer).__module__.startswith("pylayers."):
        return False
    return not isinstance(layer, ArrayLossLayer) or type(layer).prepare is ArrayLossLayer.prepare


def _names(names):
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _divides_unevenly(layer):
    loss = layer.loss_param
    if layer.type not in _LABELLED or not loss.HasField("ignore_label"):
        return False
    if loss.HasField("normalization") or not loss.HasField("normalize"):
        default = loss.HasField("normalization") or layer.type != "SigmoidCrossEntropyLoss"
        return default and loss.normalization == _NORMALIZATIONS.VALID
    return loss.normalize


def _is_sum(layer):
    return layer.type in _LABELLED and layer.loss_param.normalization == _NORMALIZATIONS.NONE
