"""Losses for nets that are written in Python, with caffe.NetSpec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from caffe import layers as L  # noqa: N812, Caffe's own convention
from caffe.proto import caffe_pb2

import pylayers
from pylayers.layer import LossLayer


def python_loss(
    layer: type[LossLayer],
    *bottoms: Any,
    loss_weight: float | None = 1,
    ntop: int = 1,
    module: str | None = None,
    name: str | None = None,
    include: Any = None,
    propagate_down: Sequence[bool] | None = None,
    param: Any = None,
    **options: Any,
) -> Any:
    """A Python layer for caffe.NetSpec, its options checked now and not when Caffe loads the net.

    Args:
        layer: the class, one of the kit's or any other subclass of `pylayers.layer.LossLayer`.
        *bottoms: NetSpec tops, as many as the layer takes.
        loss_weight: of the loss; a second top (prob) gets 0. None writes none, for a loss that feeds another layer.
        ntop: the number of tops.
        module: where the net finds the class; the class's own module if not given, "pylayers" for the kit's.
        name: the layer's name; that of its first top if not given.
        include: when the layer is in the net, a dict such as ``dict(phase=caffe.TRAIN)``, or a list of such.
        propagate_down: one bool for each bottom, whether it gets a gradient.
        param: of the layer's parameters, a dict such as ``dict(lr_mult=0)``, or a list of such.
        **options: what the layer's param_str takes; NumPy's arrays and numbers are written as JSON's.

    Returns:
        The NetSpec top, or a tuple of them.

    Raises:
        TypeError: a value of the wrong kind, options that are not JSON, or a layer that is no subclass of `LossLayer`.
        ValueError: an unknown option or field, a value out of range, or a wrong number of bottoms or tops.

    >>> import caffe, pylayers
    >>> net = caffe.NetSpec()
    >>> net.pred, net.target = L.DummyData(shape=dict(dim=[4, 10]), ntop=2)
    >>> net.loss = python_loss(pylayers.EuclideanLossLayer, net.pred, net.target, normalization="FULL")
    >>> print(net.to_proto().layer[1].python_param.param_str)
    {"normalization": "FULL"}
    >>> python_loss(pylayers.EuclideanLossLayer, net.pred, net.target, normalization="VALID")
    Traceback (most recent call last):
    ...
    ValueError: EuclideanLossLayer: param_str key "normalization" must be one of "BATCH_SIZE", "FULL", "NONE", \
found "VALID"
    """
    _check_class(layer)
    try:
        param_str = json.dumps(options, default=_plain) if options else ""
    except (TypeError, ValueError) as error:
        raise type(error)(f"{layer.__name__}: {error}") from None
    layer.read_options(param_str)
    layer.check_number("bottom", bottoms, layer.BOTTOMS, layer.OPTIONAL_BOTTOMS)
    layer.check_number("top", range(ntop), ("loss",), layer.OPTIONAL_TOPS)
    if propagate_down is not None and len(propagate_down) != len(bottoms):
        raise ValueError(
            f"{layer.__name__}: propagate_down takes one bool for each of the {len(bottoms)} bottoms, "
            f"found {len(propagate_down)}"
        )
    if module is None:
        module = "pylayers" if layer.__module__.startswith("pylayers.") else layer.__module__
    given = {"name": name, "include": include, "propagate_down": propagate_down, "param": param}
    fields = {key: _field(layer, key, value) for key, value in given.items() if value is not None}
    if loss_weight is not None and not isinstance(loss_weight, (int, float)):
        raise TypeError(f"{layer.__name__}: loss_weight must be one number; further tops get 0; found {loss_weight!r}")
    if loss_weight is not None:
        fields["loss_weight"] = [loss_weight] + [0] * (ntop - 1)
    return L.Python(*bottoms, ntop=ntop, module=module, layer=layer.__name__, param_str=param_str, **fields)


def _check_class(layer):
    if isinstance(layer, type) and issubclass(layer, LossLayer):
        return
    if isinstance(layer, str):
        name = layer.rsplit(".", 1)[-1]
        where = f"pylayers.{name}" if name in pylayers.__all__ else name
        raise TypeError(f"python_loss takes the class and not its name: write {where} without quotes, found {layer!r}")
    raise TypeError(f"python_loss takes a class that is a subclass of pylayers.layer.LossLayer, found {layer!r}")


def _plain(value):
    """NumPy's arrays and numbers as JSON has them."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"an option is a {type(value).__name__}, which JSON has not: {value!r}")


def _field(layer, key, value):
    """A field of a LayerParameter, as NetSpec takes it."""
    is_list = key != "name"
    if is_list and not isinstance(value, (list, tuple)):
        value = [value]
    try:
        found = getattr(caffe_pb2.LayerParameter(**{key: value}), key)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{layer.__name__}: {key} of a layer cannot be {value!r} ({error})") from None
    return list(found) if is_list else found
