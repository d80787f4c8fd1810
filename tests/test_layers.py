"""python_loss: what caffe.NetSpec writes with it loads, and mistakes show when the net is written."""

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
        ({"axis": np.int64(1)}, TypeError, "int64 is not JSON serializable"),
        ({"ntop": 3}, ValueError, r"WeightedSoftmaxLossLayer: takes 1 or 2 tops .*, found 3"),
    ],
)
def test_rejects_options(net, options, error, message):
    with pytest.raises(error, match=message):
        python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, **options)


def test_rejects_a_wrong_number_of_bottoms(net):
    with pytest.raises(ValueError, match=r"WeightedSoftmaxLossLayer: takes 2 or 3 bottoms .*, found 1"):
        python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores)
