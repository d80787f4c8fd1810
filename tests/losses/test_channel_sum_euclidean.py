"""ChannelSumEuclideanLossLayer against fixed convolutions, Reductions, and the formula in float64."""

import numpy as np
import pytest
from harness import oracle
from harness.closeness import assert_close_gradient, assert_close_loss, assert_same_results
from harness.nets import CHANNEL_SUM, layer, python_layer, run

CONVOLUTION = """layer {{ name: "sum_{0}" type: "Convolution" bottom: "{0}" top: "sum_{0}"
  param {{ lr_mult: 0 decay_mult: 0 }}
  convolution_param {{ num_output: 1 kernel_size: 1 bias_term: false weight_filler {{ type: "constant" value: 1 }} }} }}
"""
REDUCTION = 'layer {{ name: "sum_{0}" type: "Reduction" bottom: "{0}" top: "sum_{0}" reduction_param {{ axis: 1 }} }}\n'


def blobs(pred, target, seed=0):
    random = np.random.default_rng(seed)
    return {
        "pred": random.normal(size=pred).astype(np.float32),
        "target": random.normal(size=target).astype(np.float32),
    }


def builtin(summing, loss_weight):
    return (
        summing.format("pred")
        + summing.format("target")
        + layer("EuclideanLoss", ["sum_pred", "sum_target"], loss_weight=loss_weight)
    )


@pytest.mark.parametrize("loss_weight", [1, 0.3, -2])
@pytest.mark.parametrize(
    ("pred", "target"),
    [
        ((4, 3, 5, 6), (4, 3, 5, 6)),
        ((4, 3, 5, 6), (4, 1, 5, 6)),
        ((1, 1, 1, 1), (1, 2, 1, 1)),
        ((2, 64, 20, 30), (2, 1, 20, 30)),
    ],
)
def test_matches_fixed_convolution(pred, target, loss_weight):
    bottoms = blobs(pred, target)
    found = run(python_layer(CHANNEL_SUM, bottoms, loss_weight=loss_weight), bottoms)
    assert_same_results(found, run(builtin(CONVOLUTION, loss_weight), bottoms))


@pytest.mark.parametrize("loss_weight", [1, 0.3, -2])
@pytest.mark.parametrize(
    ("pred", "target"),
    [
        ((4, 3, 5, 6), (4, 3, 5, 6)),
        ((4, 3, 5, 6), (4, 1)),
        ((1, 9), (1, 2)),
        ((3, 2, 4), (3, 7, 1, 1)),
    ],
)
def test_matches_reduction(pred, target, loss_weight):
    bottoms = blobs(pred, target)
    found = run(python_layer(CHANNEL_SUM, bottoms, '{"end_axis": -1}', loss_weight=loss_weight), bottoms)
    assert_same_results(found, run(builtin(REDUCTION, loss_weight), bottoms))


@pytest.mark.parametrize("normalization", ["BATCH_SIZE", "FULL", "NONE"])
@pytest.mark.parametrize(
    ("axis", "end_axis", "target"),
    [
        (1, 1, (2, 1, 4, 5)),
        (2, 2, (2, 3, 7, 5)),
        (2, 3, (2, 3, 1, 1)),
        (-1, -1, (2, 3, 4, 2)),
        (1, -2, (2, 6, 1, 5)),
        (1, 3, (2, 1, 1, 1)),
    ],
)
def test_matches_oracle(axis, end_axis, target, normalization):
    bottoms = blobs((2, 3, 4, 5), target)
    options = f'{{"axis": {axis}, "end_axis": {end_axis}, "normalization": "{normalization}"}}'
    found = run(python_layer(CHANNEL_SUM, bottoms, options), bottoms)
    loss, *gradients = oracle.channel_sum_euclidean(bottoms["pred"], bottoms["target"], axis, end_axis, normalization)
    assert_close_loss(found.loss, loss)
    for name, gradient in zip(("pred", "target"), gradients):
        assert_close_gradient(found.diffs[name], gradient)


def test_large_blob_is_exact():
    bottoms = blobs((8, 21, 256, 256), (8, 1, 256, 256))
    loss, *_ = oracle.channel_sum_euclidean(bottoms["pred"], bottoms["target"])
    assert_close_loss(run(python_layer(CHANNEL_SUM, bottoms), bottoms).loss, loss)


def test_end_axis_is_axis_by_default():
    bottoms = blobs((2, 3, 4, 5), (2, 3, 4, 1))
    text, expected = (python_layer(CHANNEL_SUM, bottoms, f'{{"axis": -1{more}}}') for more in ("", ', "end_axis": 3'))
    assert_same_results(run(text, bottoms), run(expected, bottoms))


def test_sums_in_float64():
    """Two sums of 300 numbers near 1000 that differ by little: in float32 their difference is lost."""
    bottoms = blobs((2, 300, 4, 4), (2, 300, 4, 4))
    bottoms = {name: array + 1000 for name, array in bottoms.items()}
    loss, gradient, _ = oracle.channel_sum_euclidean(bottoms["pred"], bottoms["target"])
    found = run(python_layer(CHANNEL_SUM, bottoms), bottoms)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["pred"], gradient)


def test_rejects_a_blob_without_an_axis_to_sum():
    bottoms = blobs((4, 3), (4,))
    with pytest.raises(
        ValueError,
        match=r"bottom\[1\] \(target\) has shape \(4,\), expected at least two axes, the batch's and one to sum over, "
        r"such as \(N, 1\)",
    ):
        run(python_layer(CHANNEL_SUM, bottoms, '{"end_axis": -1}'), bottoms)


def test_rejects_sums_of_different_shapes():
    bottoms = blobs((4, 3, 5, 6), (4, 1, 5, 7))
    with pytest.raises(
        ValueError,
        match=r"ChannelSumEuclideanLossLayer: bottom\[1\] \(target\) has shape \(4, 1, 5, 7\), expected the sums of "
        r"bottom\[0\] \(pred\), \(4, 3, 5, 6\) → \(4, 5, 6\); its own sums have shape \(4, 5, 7\)",
    ):
        run(python_layer(CHANNEL_SUM, bottoms), bottoms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"axis": 0}', r'"axis" must name an axis of bottom\[0\] \(pred\) .* from 1 to 3, .* found 0'),
        ('{"axis": -5}', r'"axis" must name .* found -5'),
        ('{"axis": 4}', r'"axis" must name .* found 4'),
        ('{"end_axis": 4}', r'"end_axis" must name .* found 4'),
        ('{"axis": 3, "end_axis": 2}', r'"end_axis" must not come before "axis" \(3\) .* found 2'),
        ('{"axis": true}', r'"axis" must be a whole number .*, found true'),
    ],
)
def test_rejects_axes(options, message):
    bottoms = blobs((2, 3, 4, 5), (2, 3, 4, 5))
    with pytest.raises((ValueError, TypeError), match=message):
        run(python_layer(CHANNEL_SUM, bottoms, options), bottoms)
