"""Every loss of the kit, and a user's own, with its inputs. A new loss is added by a line in LOSSES."""

import tracemalloc
from typing import NamedTuple

import numpy as np

from harness.nets import CHANNEL_SUM, EUCLIDEAN, SOFTMAX, fill, load, net_text, python_layer, run


class Loss(NamedTuple):
    """A loss layer and its inputs.

    `shapes` is a dict from each bottom's name to its shape without the batch axis; `classes` is the number of classes
    of its label.
    """

    name: str
    shapes: dict
    options: str = ""
    classes: int = 0
    module: str = "pylayers"

    def bottoms(self, num, seed=0):
        random = np.random.default_rng(seed)
        values = {}
        for name, shape in self.shapes.items():
            if name == "label":
                values[name] = random.integers(0, self.classes, (num, *shape)).astype(np.float32)
            else:
                values[name] = random.normal(size=(num, *shape)).astype(np.float32)
        return values

    def layer(self, **more):
        return python_layer(self.name, list(self.shapes), self.options, module=self.module, **more)


LOSSES = {
    "euclidean": Loss(EUCLIDEAN, {"pred": (3, 4), "target": (3, 4)}),
    "euclidean, weights": Loss(
        EUCLIDEAN,
        {"pred": (3, 4), "target": (3, 4), "weight": ()},
        options='{"normalization": "FULL"}',
    ),
    "channel sum": Loss(CHANNEL_SUM, {"pred": (3, 4, 5), "target": (1, 4, 5)}),
    "channel sum, all axes": Loss(CHANNEL_SUM, {"pred": (3, 4, 5), "target": (1,)}, '{"end_axis": -1}'),
    "softmax": Loss(SOFTMAX, {"scores": (5, 4), "label": (4,)}, classes=5),
    "softmax, one class": Loss(SOFTMAX, {"scores": (1, 4), "label": (4,)}, classes=1),
    "softmax, weights": Loss(
        SOFTMAX,
        {"scores": (5, 4), "label": (4,), "weight": (4,)},
        '{"class_weights": [1, 2, 0, 0.5, 3], "normalization": "WEIGHT_SUM", "ignore_label": 2}',
        classes=5,
    ),
    "a user's": Loss("L1LossLayer", {"pred": (3, 4), "target": (3, 4)}, module="user_losses"),
    "a user's, over arrays": Loss(
        "FocalLossLayer", {"scores": (3, 4), "label": (3, 4)}, '{"gamma": 1.5}', classes=2, module="focal_loss"
    ),
}


def peak_memory(name):
    """The most memory that a loss takes in forward and backward, as a multiple of the size of its first bottom."""
    first = np.ones((20, 500, 10, 10), np.float32)
    bottoms = {"scores": first, "label": first[:, 0]} if name == SOFTMAX else {"pred": first, "target": first}
    run(python_layer(name, bottoms), bottoms)  # a first run, as compiling needs memory once
    net = load(net_text(python_layer(name, bottoms), bottoms))
    fill(net, bottoms)
    tracemalloc.start()
    try:
        for _ in range(2):
            net.forward()
            net.backward()
        return tracemalloc.get_traced_memory()[1] / first.nbytes
    finally:
        tracemalloc.stop()
