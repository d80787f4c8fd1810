"""The losses on a GPU: against Caffe's own CUDA layers, the formulas in float64, and the CPU code.

All tests of the losses run in GPU mode too, see `engine` in conftest.py. Their built-in layers are then Caffe's CUDA
layers, but for InfogainLoss, which has none.
"""

import gc
import json

import caffe
import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_close_gradient, assert_close_loss, assert_same_results
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
    python_layer,
    run,
)

from pylayers.runtime import gpu

pytestmark = pytest.mark.gpu


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels(outer, classes, inner=(), ignore=None, seed=1):
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, (outer, *inner)).astype(np.float32)
    if ignore is not None:
        label[random.random(label.shape) < 0.2] = ignore
    return label


CASES = {
    "euclidean 128×1000": (EUCLIDEAN, {"pred": draw(128, 1000), "target": draw(128, 1000, seed=1)}, {}),
    "euclidean 8×21×256×256": (
        EUCLIDEAN,
        {"pred": draw(8, 21, 256, 256), "target": draw(8, 21, 256, 256, seed=1), "weight": draw(8, seed=2)},
        {},
    ),
    "channel sum 16×3×128×128": (
        CHANNEL_SUM,
        {"pred": draw(16, 3, 128, 128), "target": draw(16, 1, 128, 128, seed=1)},
        {},
    ),
    "channel sum 16×3×128×128, all axes": (
        CHANNEL_SUM,
        {"pred": draw(16, 3, 128, 128), "target": draw(16, 1, seed=1)},
        {"end_axis": -1},
    ),
    "softmax 64×10": (SOFTMAX, {"scores": draw(64, 10), "label": labels(64, 10)}, {}),
    "softmax 256×1000": (SOFTMAX, {"scores": 5 * draw(256, 1000), "label": labels(256, 1000)}, {}),
    "softmax 128×10000": (SOFTMAX, {"scores": draw(128, 10000), "label": labels(128, 10000)}, {}),
    "softmax 20000×3": (SOFTMAX, {"scores": draw(20000, 3), "label": labels(20000, 3)}, {}),
    "softmax 16×1000×7×7": (SOFTMAX, {"scores": draw(16, 1000, 7, 7), "label": labels(16, 1000, (7, 7))}, {}),
    "softmax 4×150×64×64": (
        SOFTMAX,
        {"scores": draw(4, 150, 64, 64), "label": labels(4, 150, (64, 64), 255), "weight": draw(4, 64, 64) ** 2},
        {"ignore_label": 255, "normalization": "WEIGHT_SUM", "class_weights": [0.5, 2] * 75},
    ),
    "softmax 2×21×256×256": (
        SOFTMAX,
        {"scores": draw(2, 21, 256, 256), "label": labels(2, 21, (256, 256), 255)},
        {"ignore_label": 255},
    ),
}
CASES.update(
    {
        "smooth L1 128×1000": (
            SMOOTH_L1,
            {
                "pred": 2 * draw(128, 1000),
                "target": draw(128, 1000, seed=1),
                "inside_weight": draw(128, 1000, seed=2) ** 2,
                "outside_weight": draw(128, seed=3) ** 2,
            },
            {"sigma": 3},
        ),
        "L1 128×1000": (L1, {"pred": draw(128, 1000), "target": draw(128, 1000, seed=1)}, {}),
        "sigmoid 16×21×64×64": (
            SIGMOID,
            {"scores": 3 * draw(16, 21, 64, 64), "label": labels(16, 2, (21, 64, 64), 255)},
            {"ignore_label": 255, "normalization": "VALID", "pos_weight": [0.5, 2, 3] * 7},
        ),
        "focal 4×21×64×64": (
            FOCAL,
            {"scores": 3 * draw(4, 21, 64, 64), "label": labels(4, 21, (64, 64), 255)},
            {"ignore_label": 255},
        ),
        "dice 4×21×64×64": (
            DICE,
            {"scores": 3 * draw(4, 21, 64, 64), "label": labels(4, 21, (64, 64), 255)},
            {"ignore_label": 255, "background": 0},
        ),
        "triplet 256×128": (
            TRIPLET,
            {name: draw(256, 128, seed=seed) for seed, name in enumerate(("anchor", "positive", "negative"))},
            {"normalization": "ACTIVE"},
        ),
    }
)
FORMULAS = {
    EUCLIDEAN: oracle.euclidean,
    CHANNEL_SUM: oracle.channel_sum_euclidean,
    SOFTMAX: oracle.weighted_softmax,
    SMOOTH_L1: oracle.smooth_l1,
    L1: oracle.l1,
    SIGMOID: oracle.sigmoid_cross_entropy,
    FOCAL: oracle.softmax_focal,
    DICE: oracle.dice,
    TRIPLET: oracle.triplet,
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def test_equals_the_formula_in_float64_and_the_cpu_code(case):
    name, bottoms, options = case
    text = python_layer(name, bottoms, json.dumps(options), loss_weight=0.3)
    found = run(text, bottoms)
    caffe.set_mode_cpu()
    assert_same_results(found, run(text, bottoms))
    expected, *gradients = FORMULAS[name](*bottoms.values(), **options)
    assert_close_loss(found.loss, expected)
    for diff, gradient in zip(found.diffs.values(), gradients):
        assert_close_gradient(diff, 0.3 * gradient)


def test_same_bits_at_training_sizes(case):
    name, bottoms, options = case
    text = python_layer(name, bottoms, json.dumps(options))
    first, *others = (run(text, bottoms) for _ in range(3))
    for other in others:
        assert other.loss == first.loss
        for blob, diff in first.diffs.items():
            np.testing.assert_array_equal(other.diffs[blob], diff)


@pytest.mark.parametrize(
    "shape",
    [(1, 2**29 + 5), (3, 2**28)],  # just above 2 GiB each, then more than 2³¹ bytes into the blob
)
def test_blobs_of_more_than_2_gib(shape):
    """Bottoms with two values that are not 0: the loss and its gradients are known."""
    if gpu.backend.cupy.cuda.runtime.memGetInfo()[0] < 50 * 2**30:
        pytest.skip("this takes a GPU with 50 GiB free")
    pred = np.zeros(shape, np.float32)
    pred[0, 0] = 1
    pred[-1, -1] = 3
    bottoms = {"pred": pred, "target": np.zeros(shape, np.float32)}
    sums = pred.sum(axis=1)
    wanted = "propagate_down: true propagate_down: false"
    for name, loss, gradient in ((EUCLIDEAN, (1 + 9) / 2, 3), (CHANNEL_SUM, (sums**2).sum() / 2, sums[-1])):
        found = run(python_layer(name, bottoms, '{"normalization": "NONE"}', params=wanted), bottoms)
        assert found.loss == pytest.approx(loss)
        assert found.diffs["pred"][-1, -1] == gradient
        del found  # a net has 26 GB, on the host too
        gc.collect()
