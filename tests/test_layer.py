"""LossLayer: what a subclass may leave out, and the switch to GPU code."""

import subprocess
import sys
import warnings

import pytest
from harness.closeness import assert_same_results
from harness.losses import LOSSES
from harness.nets import python_layer, run

import pylayers.layer
from pylayers.runtime import gpu


class GpuMode(gpu.Gpu):
    """In GPU mode, whatever Caffe says; with the CuPy that there is, or none."""

    def in_use(self, blob):
        return True


@pytest.fixture
def gpu_mode(monkeypatch):
    """Makes LossLayer believe that Caffe is in GPU mode; nothing here touches a GPU."""
    monkeypatch.setattr(gpu, "backend", GpuMode())
    pylayers.layer._warn_of_cpu_code.cache_clear()


def user_layer(name):
    return python_layer(name, ["pred", "target"], module="user_losses")


@pytest.fixture
def bottoms():
    return LOSSES["a user's"].bottoms(4)


def test_a_loss_without_formula_says_what_is_missing(bottoms):
    with pytest.raises(NotImplementedError, match=r"NoFormulaLayer needs a method forward_cpu\(self, bottom, top\)"):
        run(user_layer("NoFormulaLayer"), bottoms)


@pytest.mark.parametrize(
    ("layer", "found"), [("NoReturnLayer", "None"), ("NoSumLayer", r"an array of shape \(4, 3, 4\)")]
)
def test_a_loss_that_does_not_return_a_number_says_so(bottoms, layer, found):
    with pytest.raises(TypeError, match=f"{layer}: forward_cpu must return the loss, one number; it returned {found}"):
        run(user_layer(layer), bottoms)


@pytest.mark.usefixtures("gpu_mode")
def test_gpu_mode_without_gpu_code_runs_the_cpu_code_and_says_so_once(monkeypatch):
    loss = LOSSES["a user's"]
    bottoms = loss.bottoms(4)
    with pytest.warns(RuntimeWarning, match=f"{loss.name} has no GPU code: in GPU mode it runs on the CPU") as caught:
        found = run(loss.layer(), bottoms)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(loss.layer(), bottoms)
    monkeypatch.undo()
    assert_same_results(found, run(loss.layer(), bottoms))


@pytest.mark.usefixtures("gpu_mode")
@pytest.mark.parametrize("loss", [loss for loss in LOSSES.values() if loss.module == "pylayers"])
def test_without_a_usable_cupy_gpu_mode_runs_the_cpu_code_and_says_so_once(loss, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    bottoms = loss.bottoms(4)
    with pytest.warns(RuntimeWarning, match="losses run on the CPU in GPU mode, as CuPy cannot be used: ") as caught:
        found = [run(loss.layer(), bottoms) for _ in range(2)]
    assert len(caught) == 1
    monkeypatch.undo()
    assert_same_results(found[1], run(loss.layer(), bottoms))


@pytest.mark.usefixtures("gpu_mode")
def test_gpu_mode_takes_the_gpu_code(bottoms):
    found = run(user_layer("GpuCodeLayer"), bottoms)
    assert found.loss == 123
    assert (found.diffs["pred"] == 456).all()


def test_cpu_mode_takes_the_cpu_code(bottoms):
    assert_same_results(run(user_layer("GpuCodeLayer"), bottoms), run(user_layer("L1LossLayer"), bottoms))


def test_without_caffe_a_layer_says_where_to_get_it():
    code = "import sys; sys.modules['caffe'] = None; import pylayers; pylayers.EuclideanLossLayer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pylayers needs Caffe's Python module" in done.stderr.splitlines()[-1]
