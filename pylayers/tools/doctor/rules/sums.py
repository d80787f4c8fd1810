"""Sums over channels by Caffe's own layers: a fixed 1×1 convolution, or a Reduction."""

import math
from typing import NamedTuple

from caffe.proto import caffe_pb2

from pylayers.caffe_facts import loss_weights
from pylayers.tools.doctor.finding import rule

TOPIC = "Sums over channels"


class _Fixed(NamedTuple):
    """A 1×1 convolution to one channel that may be meant to sum channels, with weights that stay the same."""

    value: float  # the filler's value
    is_said: bool  # whether the net has a weight_filler for it
    is_frozen: bool  # whether its weights have lr_mult 0
    trains_bias: bool
    is_before_loss: bool  # whether an EuclideanLoss or a Python layer takes its top


def _fixed(net, layer):
    """A layer as `_Fixed`; None where it is no such convolution, or its filler is not constant."""
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


@rule(TOPIC)
def fixed_convolution_zero(net):
    """What: a fixed 1×1 convolution of zeros before a loss.
    Why: 0 is the default of the constant filler. The convolution's top is always 0, and the loss constant.
    Write: ``weight_filler { type: "constant" value: 1 }``.
    """
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


@rule(TOPIC)
def fixed_convolution_trained(net):
    """What: a 1×1 convolution that is to sum channels, and is trained.
    Why: the solver changes its weights so that the loss becomes small, and they are no sum any more.
    Write: ``param { lr_mult: 0 decay_mult: 0 }`` and ``bias_term: false``.
    """
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


@rule(TOPIC, needs_shapes=True)
def reduction_axes(net):
    """What: a Reduction before a loss that takes more axes together than the one that it names.
    Why: Caffe's Reduction takes ``axis`` and all axes after it.
    Write: for that axis alone ``ChannelSumEuclideanLossLayer``, or a fixed 1×1 convolution before EuclideanLoss.
    """
    for layer in net.layers:
        param = layer.param.reduction_param
        if layer.param.type != "Reduction" or not any(
            loss_weights(taker.param) or taker.param.type == "Python" for taker in net.takers(layer)
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
