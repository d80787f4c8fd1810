"""NumPy's error state changes nothing, and NaN and infinity give no warnings."""

import warnings

import numpy as np
import pytest
from harness.losses import LOSSES
from harness.nets import fill, load, loss_index, net_text, run_again

pytestmark = pytest.mark.engines("numba", "formula")
KITS = {name: loss for name, loss in LOSSES.items() if loss.module == "pylayers"}
NUMBERS = {
    "usual": 1,
    "far apart": 1e3,
    "huge": 1e30,
    "tiny": 1e-30,
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())
@pytest.mark.parametrize("loss", KITS.values(), ids=KITS.keys())
@pytest.mark.parametrize("state", ["raise", "warn"])
def test_numpys_error_state_changes_nothing(state, loss, number):
    bottoms = loss.bottoms(4)
    first = next(iter(bottoms))
    if np.isfinite(number):
        bottoms[first] *= np.float32(number)
    else:
        bottoms[first][1:3] = number
    net = load(net_text(loss.layer(), bottoms))
    fill(net, bottoms)
    with np.errstate(all="ignore"):
        expected = run_again(net, bottoms)
    with np.errstate(all=state), warnings.catch_warnings():
        warnings.simplefilter("error")
        state_before = np.geterr()
        net.forward()
        net.backward()
        net.layers[loss_index(net)].reference(list(bottoms.values()))
        assert np.geterr() == state_before
    np.testing.assert_array_equal(net.blobs["loss"].data, np.float32(expected.loss))
    for name, diff in expected.diffs.items():
        np.testing.assert_array_equal(net.blobs[name].diff, diff)
