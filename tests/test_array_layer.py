"""ArrayLossLayer: formulas over arrays, and the worked example in prototxt/own_loss."""

import functools
import subprocess
import warnings

import numpy as np
import pytest
from harness import ROOT
from harness.caffe_command import CAFFE, environment, losses
from harness.closeness import assert_close_gradient, assert_close_loss
from harness.host_kernels import HostGpu
from harness.losses import LOSSES
from harness.nets import python_layer, run

from pylayers.runtime import gpu
from pylayers.runtime.gpu import Gpu

EXAMPLE = ROOT / "prototxt/own_loss/log_cosh_loss.py"
LOG_COSH = functools.partial(python_layer, "LogCoshLossLayer", ["pred", "target"], module="log_cosh_loss")


@pytest.fixture
def bottoms():
    return LOSSES["a user's, over arrays"].bottoms(6)


@pytest.mark.parametrize("size", [1e-4, 1, 1e4])
def test_log_cosh_loss_and_its_gradient_are_those_of_float64(size, bottoms):
    bottoms = {name: (size * array).astype(np.float32) for name, array in bottoms.items()}
    found = run(LOG_COSH('{"scale": 2}', loss_weight=0.3), bottoms)
    x = (bottoms["pred"].astype(np.float64) - bottoms["target"]) / 2
    exact = np.where(np.abs(x) < 0.1, x**2 / 2 - x**4 / 12 + x**6 / 45, np.logaddexp(x, -x) - np.log(2))
    assert_close_loss(found.loss, 4 * np.sum(exact) / 6)
    assert_close_gradient(found.diffs["pred"], 0.3 * 2 * np.tanh(x) / 6)
    np.testing.assert_array_equal(found.diffs["target"], -found.diffs["pred"])


def test_log_cosh_loss_checks_option_and_shapes(bottoms):
    with pytest.raises(ValueError, match=r'LogCoshLossLayer: param_str key "scale" must be a finite number, above 0'):
        run(LOG_COSH('{"scale": 0}'), bottoms)
    with pytest.raises(ValueError, match=r"bottom\[1\] \(target\) has shape \(6, 2\), expected \(6, 3, 4\), as bottom"):
        run(LOG_COSH(), {**bottoms, "target": bottoms["target"][:, 0, :2]})


def test_a_reference_leaves_nothing_for_backward():
    """It computes in float64, perhaps of other labels."""
    loss = LOSSES["focal"]
    bottoms = loss.bottoms(4)
    net = run(loss.layer(), bottoms).net
    expected = net.blobs["scores"].diff.copy()
    layer = net.layers[list(net._layer_names).index("loss")]
    layer.reference([bottoms["scores"], (bottoms["label"] + 1) % 5])
    assert layer.kept is None
    net.backward()
    np.testing.assert_array_equal(net.blobs["scores"].diff, expected)


def test_the_example_has_twenty_lines_at_most():
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and '"""' not in line]
    assert len(lines) <= 20


def train(pythonpath):
    command = [CAFFE, "train", "--solver=prototxt/own_loss/log_cosh_loss_solver.prototxt"]
    return subprocess.run(command, capture_output=True, text=True, env={**environment(), "PYTHONPATH": pythonpath})


@pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")
def test_caffe_train_finds_the_users_module_on_pythonpath():
    done = train("prototxt/own_loss")
    assert done.returncode == 0
    found = losses(done)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")
def test_without_it_caffe_train_names_the_module():
    done = train("")
    assert done.returncode
    assert "No module named 'log_cosh_loss'" in done.stderr


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "NoFormulaArrayLayer",
            NotImplementedError,
            r"NoFormulaArrayLayer needs a method loss\(self, xp, pred, target\)",
        ),
        ("NoGradientsArrayLayer", NotImplementedError, r"needs a method gradients\(self, xp, pred, target\)"),
        (
            "NoSumArrayLayer",
            TypeError,
            r"loss must return the loss, one number; it returned an array of shape \(4, 3, 4\)",
        ),
        (
            "OneGradientArrayLayer",
            TypeError,
            r"gradients must return one array for each of bottom\[0\] \(pred\), bottom\[1\] \(target\), of the shapes "
            r"\[\(4, 3, 4\), \(4, 3, 4\)\]; it returned the shapes \[\(4, 3, 4\)\]",
        ),
        (
            "UnknownConstantLayer",
            ValueError,
            "UnknownConstantLayer: CONSTANTS has 'label', which is none of its bottoms: pred, target",
        ),
        ("NoReturnArrayLayer", TypeError, "it returned None"),
    ],
)
def test_a_forgotten_formula_says_so(name, error, message):
    bottoms = LOSSES["a user's"].bottoms(4)
    with pytest.raises(error, match=message):
        run(python_layer(name, list(bottoms), module="user_losses"), bottoms)


@pytest.mark.parametrize(("name", "method"), [("InPlaceLossLayer", "loss"), ("InPlaceGradientsLayer", "gradients")])
def test_a_formula_that_writes_to_its_bottoms_fails_at_once(name, method):
    bottoms = LOSSES["a user's"].bottoms(4)
    before = bottoms["pred"].copy()
    with pytest.raises(
        ValueError, match=rf"{name}: {method} writes to a bottom, .* x = x - 1 in place of x -= 1 \(NumPy: .*read-only"
    ):
        run(python_layer(name, list(bottoms), module="user_losses"), bottoms)
    np.testing.assert_array_equal(bottoms["pred"], before)


# GPU mode, as far as it goes without a GPU: tests/gpu has the rest.


class NumpyGpu(HostGpu):
    """Lets the GPU code work on the blobs' host memory, but for what it writes to diffs, which must be here alone."""

    def __init__(self):
        super().__init__()
        self.diffs = {}

    def diff(self, blob):
        return self.diffs.setdefault(blob.diff.ctypes.data, blob.diff.copy())

    def clear_diff(self, blob):
        self.diff(blob).fill(0)


class GpuMode(Gpu):
    """In GPU mode, with the CuPy that there is, or none."""

    def in_use(self, blob):
        return True


@pytest.mark.parametrize("loss_weight", [1, -0.3])
@pytest.mark.parametrize(
    ("name", "module", "shapes"),
    [
        ("LogCoshLossLayer", "log_cosh_loss", {"pred": (4, 5), "target": (4, 5)}),
        ("FocalLossLayer", "pylayers", {"scores": (4, 5), "label": (4,), "weight": (4,)}),
        ("ArrayL1LossLayer", "user_losses", {"pred": (4, 5), "target": (4, 5)}),
        ("ArrayL1LossLayer", "user_losses", {"pred": (4, 5), "target": (4, 5), "weight": (4,)}),
    ],
)
def test_gpu_code_gives_what_cpu_code_does(name, module, shapes, loss_weight, monkeypatch):
    random = np.random.default_rng(0)
    bottoms = {key: random.integers(0, 2, shape).astype(np.float32) for key, shape in shapes.items()}
    text = python_layer(name, list(bottoms), module=module, loss_weight=loss_weight)
    expected = run(text, bottoms, header="force_backward: true ").net
    backend = NumpyGpu()
    monkeypatch.setattr(gpu, "backend", backend)
    net = run(text, bottoms, header="force_backward: true ").net
    assert_close_loss(float(net.blobs["loss"].data), float(expected.blobs["loss"].data))
    for key in bottoms:
        assert_close_gradient(backend.diffs[net.blobs[key].diff.ctypes.data], expected.blobs[key].diff)
        assert not net.blobs[key].diff.any()


def test_without_a_usable_cupy_gpu_mode_warns_once_and_computes_on_the_cpu(bottoms, monkeypatch):
    monkeypatch.setattr(gpu, "backend", GpuMode())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [run(LOG_COSH(), bottoms) for _ in range(2)]
    messages = [str(each.message) for each in caught if each.category is RuntimeWarning]
    assert len(messages) == 1
    assert messages[0].startswith("losses run on the CPU in GPU mode, as CuPy cannot be used: ")
    assert_close_loss(found[1].loss, found[0].loss)
