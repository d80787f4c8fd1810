"""The first thing to try on a GPU: each loss once each way, against the CPU. It takes half a minute."""

import caffe
import pytest
from harness.closeness import assert_same_results
from harness.losses import LOSSES
from harness.nets import run

pytestmark = pytest.mark.gpu
KIT = {name: loss for name, loss in LOSSES.items() if loss.module == "pylayers"}


@pytest.mark.parametrize("loss", KIT.values(), ids=KIT.keys())
def test_each_loss(loss):
    bottoms = loss.bottoms(7)
    found = run(loss.layer(loss_weight=-0.3), bottoms)
    caffe.set_mode_cpu()
    assert_same_results(found, run(loss.layer(loss_weight=-0.3), bottoms))
