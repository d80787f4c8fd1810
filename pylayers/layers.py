"""Losses for nets that are written in Python, with caffe.NetSpec."""

from __future__ import annotations

import json
from typing import Any

from caffe import layers as L  # noqa: N812, Caffe's own convention

from pylayers import params
from pylayers.layer import LossLayer


def python_loss(
    layer: type[LossLayer],
    *bottoms: Any,
    loss_weight: float | None = 1,
    ntop: int = 1,
    module: str | None = None,
    **options: Any,
) -> Any:
    """A Python layer for caffe.NetSpec, its options checked now and not when Caffe loads the net.

    Args:
        layer: the class, one of the kit's or any other subclass of `pylayers.layer.LossLayer`.
        *bottoms: NetSpec tops, as many as the layer takes.
        loss_weight: of the loss; a second top (prob) gets 0. None writes none, for a loss that feeds another layer.
        ntop: the number of tops.
        module: where the net finds the class; the class's own module if not given, "pylayers" for the kit's.
        **options: what the layer's param_str takes.

    Returns:
        The NetSpec top, or a tuple of them.

    Raises:
        TypeError: a value of the wrong kind, or options that are not JSON.
        ValueError: an unknown option, a value out of range, or a wrong number of bottoms or tops.

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
    param_str = json.dumps(options) if options else ""
    try:
        params.parse(param_str, layer.OPTIONS)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{layer.__name__}: {error}") from None
    layer.check_number("bottom", bottoms, layer.BOTTOMS, layer.OPTIONAL_BOTTOMS)
    layer.check_number("top", range(ntop), ("loss",), layer.OPTIONAL_TOPS)
    if module is None:
        module = "pylayers" if layer.__module__.startswith("pylayers.") else layer.__module__
    fields = {} if loss_weight is None else {"loss_weight": [loss_weight] + [0] * (ntop - 1)}
    return L.Python(*bottoms, ntop=ntop, module=module, layer=layer.__name__, param_str=param_str, **fields)
