"""python_loss: what caffe.NetSpec writes with it loads, and mistakes show when the net is written."""

import json

import caffe
import numpy as np
import pytest
import user_losses
from caffe import layers as L  # noqa: N812
from harness.nets import load

import pylayers
from pylayers.layers import python_loss


@pytest.fixture
def net():
    net = caffe.NetSpec()
    net.scores = L.Input(shape={"dim": [4, 10]})
    net.label = L.Input(shape={"dim": [4]})
    return net


def test_a_net_that_loads_and_runs(net):
    options = {"ignore_label": 255, "class_weights": [1.0] * 10}
    net.loss, net.prob = python_loss(
        pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, ntop=2, loss_weight=0.3, **options
    )
    assert list(net.to_proto().layer[-1].loss_weight) == pytest.approx([0.3, 0])
    loaded = load(f"force_backward: true {net.to_proto()}")
    assert loaded.forward()["loss"] == pytest.approx(np.log(10))
    loaded.backward()
    assert np.abs(loaded.blobs["scores"].diff).max() == pytest.approx(0.3 * 0.9 / 4)


def test_a_loss_that_feeds_another_layer(net):
    net.loss = python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, loss_weight=None)
    net.scaled = L.Power(net.loss, scale=2, loss_weight=1)
    assert not net.to_proto().layer[2].loss_weight
    assert load(str(net.to_proto())).forward()["scaled"] == pytest.approx(2 * np.log(10))


def test_a_users_loss(net):
    net.loss = python_loss(user_losses.L1LossLayer, net.scores, net.scores, normalization="NONE")
    assert net.to_proto().layer[-1].python_param.module == "user_losses"
    assert load(str(net.to_proto())).forward()["loss"] == 0


def test_no_options_write_no_param_str(net):
    net.loss = python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label)
    assert net.to_proto().layer[-1].python_param.param_str == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"axes": 1},
            ValueError,
            r'WeightedSoftmaxLossLayer: param_str has the unknown key "axes" \(did you mean "axis"',
        ),
        ({"axis": 1.5}, TypeError, 'WeightedSoftmaxLossLayer: param_str key "axis" must be a whole number'),
        ({"class_weights": {1.0}}, TypeError, r"WeightedSoftmaxLossLayer: an option is a set, which JSON has not: \{1"),
        ({"class_weights": np.array([1, np.nan])}, ValueError, "WeightedSoftmaxLossLayer: param_str holds NaN"),
        ({"class_weights": np.ones((2, 2))}, TypeError, '"class_weights" must be a list of finite numbers'),
        ({"include": {"phse": 1}}, ValueError, "WeightedSoftmaxLossLayer: include of a layer cannot be .*phse"),
        ({"param": {"lr_mult": "x"}}, TypeError, "WeightedSoftmaxLossLayer: param of a layer cannot be "),
        ({"loss_weight": [1, 0]}, TypeError, r"WeightedSoftmaxLossLayer: loss_weight must be one number; .* \[1, 0\]"),
        ({"name": 3}, TypeError, "WeightedSoftmaxLossLayer: name of a layer cannot be 3"),
        ({"propagate_down": [True]}, ValueError, "propagate_down takes one bool for each of the 2 bottoms, found 1"),
        ({"ntop": 3}, ValueError, r"WeightedSoftmaxLossLayer: takes 1 or 2 tops .*, found 3"),
    ],
)
def test_rejects_options(net, options, error, message):
    with pytest.raises(error, match=message):
        python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, **options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("EuclideanLossLayer", "not its name: write pylayers.EuclideanLossLayer without quotes, found 'EuclideanLoss"),
        ("my_losses.MyLayer", "not its name: write MyLayer without quotes"),
        (caffe.Layer, "subclass of pylayers.layer.LossLayer, found <class 'caffe._caffe.Layer'>"),
        (None, "subclass of pylayers.layer.LossLayer, found None"),
    ],
)
def test_rejects_what_is_no_class_of_a_loss(net, kind, message):
    with pytest.raises(TypeError, match=message):
        python_loss(kind, net.scores, net.label)


def test_arrays_and_numpys_numbers_as_options(net):
    options = {"class_weights": np.linspace(0, 1, 10), "axis": np.int64(1)}
    net.loss = python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, **options)
    written = json.loads(net.to_proto().layer[-1].python_param.param_str)
    assert written == {"class_weights": np.linspace(0, 1, 10).tolist(), "axis": 1}
    assert load(str(net.to_proto())).forward()["loss"] >= 0


def test_fields_of_the_layer(net):
    net.loss = python_loss(
        pylayers.WeightedSoftmaxLossLayer,
        net.scores,
        net.label,
        name="my loss",
        include={"phase": caffe.TRAIN},
        propagate_down=[True, False],
        param=[{"lr_mult": 0}],
    )
    layer = net.to_proto().layer[-1]
    assert (layer.name, layer.top[0], list(layer.propagate_down)) == ("my loss", "loss", [True, False])
    assert [rule.phase for rule in layer.include] == [caffe.TRAIN]
    assert [spec.lr_mult for spec in layer.param] == [0]
    assert "loss" not in load(str(net.to_proto())).blobs  # in phase TEST


def test_without_them_they_are_not_written(net):
    net.loss = python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label)
    fields = {field.name for field, _ in net.to_proto().layer[-1].ListFields()}
    assert fields == {"name", "type", "bottom", "top", "loss_weight", "python_param"}


def test_rejects_a_wrong_number_of_bottoms(net):
    with pytest.raises(ValueError, match=r"WeightedSoftmaxLossLayer: takes 2 or 3 bottoms .*, found 1"):
        python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores)
