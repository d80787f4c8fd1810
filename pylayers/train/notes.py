"""What a user of several processes is told once, at the start: where they are not one process with their batches."""

from caffe.proto import caffe_pb2

_LABELLED = ("SoftmaxWithLoss", "InfogainLoss", "SigmoidCrossEntropyLoss")
_NORMALIZATIONS = caffe_pb2.LossParameter


def notes(layers, ranks, local_normalizer):
    """Sentences on the layers of the train net.

    Args:
        layers: LayerParameters.
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
