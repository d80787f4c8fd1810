"""The losses' loops, Numba's and NumPy's. The losses' tests run with those that are chosen, and here with NumPy's."""

import importlib.util
import math
import sys

import again
import numpy as np
import oracle
import pytest
import test_all_losses
from closeness import assert_close_gradient, assert_close_loss
from nets import CHANNEL_SUM, EUCLIDEAN, SOFTMAX, python_layer, run

from pylayers.losses.weighted_softmax import formula as loops_numpy
from pylayers.runtime import loops

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="Numba is not installed")
LOOPS = {"loops_numpy": loops_numpy.__name__, "loops_numba": "pylayers.losses.weighted_softmax.loops"}
MODULES = ["loops_numpy", pytest.param("loops_numba", marks=needs_numba)]

if HAS_NUMBA:  # or else they have run with NumPy's already
    globals().update(again.tests(left_out=()))


@pytest.fixture(params=list(test_all_losses.LOSSES))
def loss(request):
    return test_all_losses.LOSSES[request.param]


@pytest.fixture(autouse=True)
def _numpys_loops(request, monkeypatch):
    """NumPy's loops, or the module that a test names."""
    name = request.node.callspec.params.get("module") if hasattr(request.node, "callspec") else None
    module = importlib.import_module(LOOPS[name]) if name else loops_numpy
    monkeypatch.setattr(loops, "chosen", lambda: module)


chosen = loops.chosen.__wrapped__


@needs_numba
def test_numba_is_taken_where_it_is_installed():
    from pylayers.losses.weighted_softmax import loops as loops_numba

    assert chosen() is loops_numba


@needs_numba
def test_numba_is_not_taken_where_it_does_not_compile(monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert chosen() is loops_numpy


@pytest.mark.filterwarnings("error")
def test_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert chosen() is loops_numpy


@pytest.mark.parametrize(
    "error", ["ImportError('Numba needs NumPy 2.3 or less')", "ModuleNotFoundError(name='llvmlite')"]
)
def test_a_broken_numba_is_told(error, tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    with pytest.warns(RuntimeWarning, match="losses run on NumPy alone, as Numba cannot be used: (Numba needs|Module)"):
        assert chosen() is loops_numpy


@needs_numba
def test_compiles_where_no_folder_for_the_cache_can_be_written(monkeypatch):
    import numba

    from pylayers.losses.weighted_softmax import loops as loops_numba

    def njit(function, cache=False, **flags):
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available for file")
        return original(function, **flags)

    original = numba.njit
    monkeypatch.setattr(numba, "njit", njit)
    assert loops_numba._compiled()(lambda x: 2 * x)(4) == 8


@needs_numba
@pytest.mark.parametrize(("name", "exact"), [("_exp", np.exp), ("_log1p", np.log1p)])
def test_exp_and_log_are_within_2e_7(name, exact):
    import numba

    from pylayers.losses.weighted_softmax import loops as loops_numba

    function = getattr(loops_numba, name)
    every = numba.njit(lambda x: [function(number) for number in x], error_model="numpy")
    small, large = 10.0 ** np.linspace(-37, 0, 20001), np.linspace(0, 86.9, 20001)
    x = np.concatenate([-small, -large] if name == "_exp" else [small, large, 10.0 ** np.linspace(1, 38, 20001)])
    x = x.astype(np.float32)
    np.testing.assert_allclose(every(x), exact(x.astype(float)), rtol=2e-7)
    special = np.array([np.nan, 0, -np.inf if name == "_exp" else np.inf], np.float32)
    np.testing.assert_array_equal(every(special), exact(special))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "shape",
    [(3, 1500), (3, 2), (40, 33, 2), (2, 1000, 7, 7), (2, 97, 3), (3, 5, 300), (2, 70, 513), (2, 3, 1025), (1, 1, 600)],
)
def test_softmax_of_any_shape(shape, module):
    random = np.random.default_rng(0)
    scores = random.normal(size=shape).astype(np.float32)
    label = random.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.float32)
    label.flat[0] = 255
    bottoms = {"scores": scores, "label": label}
    found = run(python_layer(SOFTMAX, bottoms, '{"ignore_label": 255}', tops=["loss", "prob"]), bottoms)
    loss, gradient = oracle.weighted_softmax(scores, label, ignore_label=255)
    assert_close_loss(found.loss, loss)
    assert_close_gradient(found.diffs["scores"], gradient)
    exp = np.exp(scores.astype(float))
    np.testing.assert_allclose(found.net.blobs["prob"].data, exp / exp.sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("shape", [(3, 70), (3, 70, 2), (3, 7, 600)])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 5])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_scores_that_are_not_finite_show_in_the_loss(where, value, shape, module):
    scores = np.zeros(shape, np.float32)
    scores[1, where, ...] = value
    bottoms = {"scores": scores, "label": np.zeros((3, *shape[2:]), np.float32)}
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    assert np.isnan(found.loss)
    assert np.isnan(found.diffs["scores"][1]).any()
    assert np.isfinite(found.diffs["scores"][[0, 2]]).all()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("shape", [(3, 70), (3, 70, 2), (3, 7, 600)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ignored_positions_get_no_gradient_whatever_their_scores(shape, module):
    scores = np.zeros(shape, np.float32)
    scores[1] = np.nan
    label = np.zeros((3, *shape[2:]), np.float32)
    label[1] = 255
    bottoms = {"scores": scores, "label": label}
    found = run(python_layer(SOFTMAX, bottoms, '{"ignore_label": 255}'), bottoms)
    assert_close_loss(found.loss, math.log(shape[1]))
    assert not found.diffs["scores"][1].any()


@needs_numba
@pytest.mark.parametrize("module", ["loops_numba"])
@pytest.mark.parametrize(("name", "share"), [(EUCLIDEAN, 0.01), (CHANNEL_SUM, 0.01), (SOFTMAX, 0.02)])
def test_numbas_loops_need_little_memory(name, share, module):
    """Softmax keeps three numbers for each position, and has 500 classes here."""
    assert test_all_losses.peak_memory(name) < share


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 100000])
def test_sum_of_products(size):
    a, b = np.random.default_rng(0).random((2, size), np.float32)
    assert loops_numpy._sum_of_products(a, b) == pytest.approx(math.fsum(a.astype(float) * b), rel=3e-7)


CONSTANTS = [0.3, 0.7, 1 / 3]  # all roundings of a sum go one way


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("weight", [None, 0.9])
@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("size", [1, 255, 257, 2049, 100000])
def test_euclidean_sums_of_constants(size, constant, weight, module):
    bottoms = {"pred": np.full((2, size), constant, np.float32), "target": np.zeros((2, size), np.float32)}
    if weight:
        bottoms["weight"] = np.full((2, size), weight, np.float32)
    assert_close_loss(run(python_layer(EUCLIDEAN, bottoms), bottoms).loss, oracle.euclidean(*bottoms.values())[0])


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("gap", [5, 12, 20, 72.375])
@pytest.mark.parametrize("shape", [(2, 1000), (1, 100000), (1, 1000, 2), (1, 10001, 3), (1, 3000, 600)])
def test_softmax_sums_of_constants(shape, gap, module):
    """A label far above all others, whose small sum is the loss."""
    scores = np.zeros(shape, np.float32)
    scores[:, 3] = gap
    bottoms = {"scores": scores, "label": np.full((shape[0], *shape[2:]), 3, np.float32)}
    found = run(python_layer(SOFTMAX, bottoms), bottoms)
    small = math.exp(-gap)
    others = (shape[1] - 1) * small
    assert_close_loss(found.loss, math.log1p(others))
    gradient = np.full(shape, small / (1 + others))
    gradient[:, 3] = -others / (1 + others)
    assert_close_gradient(found.diffs["scores"], gradient / bottoms["label"].size)
