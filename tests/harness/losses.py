"""Every loss of the kit, and a user's own, with its inputs. A new loss is added by a line in LOSSES."""

import tracemalloc
from typing import NamedTuple

import numpy as np

from harness.nets import (
    CHANNEL_SUM,
    DICE,
    EUCLIDEAN,
    FOCAL,
    L1,
    SIGMOID,
    SMOOTH_L1,
    SOFTMAX,
    TRIPLET,
    fill,
    load,
    net_text,
    python_layer,
    run,
)


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
    "smooth L1": Loss(SMOOTH_L1, {"pred": (3, 4), "target": (12,)}),
    "smooth L1, weights": Loss(
        SMOOTH_L1,
        {"pred": (3, 4), "target": (3, 4), "inside_weight": (3, 4), "outside_weight": ()},
        '{"sigma": 1.5, "normalization": "FULL"}',
    ),
    "L1": Loss(L1, {"pred": (3, 4), "target": (3, 4)}),
    "L1, weights": Loss(L1, {"pred": (3, 4), "target": (3, 4), "weight": ()}, '{"normalization": "NONE"}'),
    "sigmoid": Loss(SIGMOID, {"scores": (3, 4), "label": (12,)}, classes=2),
    "sigmoid, weights": Loss(
        SIGMOID,
        {"scores": (3, 4), "label": (3, 4), "weight": (3, 4)},
        '{"pos_weight": [1, 2.5, 0.5], "ignore_label": 1, "normalization": "VALID"}',
        classes=2,
    ),
    "focal": Loss(FOCAL, {"scores": (5, 4), "label": (4,)}, classes=5),
    "focal, weights": Loss(
        FOCAL,
        {"scores": (5, 4), "label": (4,), "weight": (4,)},
        '{"class_weights": [1, 2, 0, 0.5, 3], "normalization": "WEIGHT_SUM", "ignore_label": 2, "gamma": 0.5}',
        classes=5,
    ),
    "focal, sigmoid": Loss(
        FOCAL,
        {"scores": (3, 4), "label": (3, 4), "weight": ()},
        '{"activation": "SIGMOID", "pos_weight": 3, "gamma": 1.5}',
        classes=2,
    ),
    "dice": Loss(DICE, {"scores": (5, 4), "label": (4,)}, classes=5),
    "dice, sigmoid": Loss(
        DICE,
        {"scores": (5, 4), "label": (4,)},
        '{"activation": "SIGMOID", "exponent": 1, "per_item": true, "background": 0, "ignore_label": 2}',
        classes=5,
    ),
    "dice, one channel": Loss(DICE, {"scores": (1, 4), "label": (4,)}, '{"activation": "SIGMOID"}', classes=2),
    "triplet": Loss(TRIPLET, {"anchor": (3, 4), "positive": (3, 4), "negative": (3, 4)}),
    "triplet, weights": Loss(
        TRIPLET,
        {"anchor": (3, 4), "positive": (3, 4), "negative": (3, 4), "weight": ()},
        '{"margin": 4, "normalization": "ACTIVE"}',
    ),
    "a user's": Loss("L1LossLayer", {"pred": (3, 4), "target": (3, 4)}, module="user_losses"),
    "a user's, over arrays": Loss(
        "LogCoshLossLayer", {"pred": (3, 4), "target": (3, 4)}, '{"scale": 1.5}', module="log_cosh_loss"
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
