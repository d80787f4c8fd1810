"""Numba, which the losses' loops are compiled by: whether it is taken, and what it makes."""

import importlib
import importlib.util
import os
import sys

import numpy as np
import pytest
from harness.full_disk import file_size_limit

from pylayers.runtime.loops import compiled, is_usable

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="Numba is not installed")


@needs_numba
def test_numba_is_taken_where_it_is_installed():
    assert is_usable()


@needs_numba
def test_numba_is_not_taken_where_it_does_not_compile(monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert not is_usable()


@pytest.mark.filterwarnings("error")
def test_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not is_usable()


@pytest.mark.parametrize(
    "error", ["ImportError('Numba needs NumPy 2.3 or less')", "ModuleNotFoundError(name='llvmlite')"]
)
def test_a_broken_numba_is_told(error, tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    with pytest.warns(RuntimeWarning, match="losses run on NumPy alone, as Numba cannot be used: (Numba needs|Module)"):
        assert not is_usable()


@needs_numba
def test_compiles_where_no_folder_for_the_cache_can_be_written(monkeypatch):
    import numba

    def njit(function, cache=False, **flags):
        if cache:
            raise RuntimeError("cannot cache function 'double': no locator available for file")
        return original(function, **flags)

    original = numba.njit
    monkeypatch.setattr(numba, "njit", njit)
    assert compiled()(lambda x: 2 * x)(4) == 8


LOOP = """
from pylayers.runtime import loops


@loops.compiled()
def double(x):
    return 2 * x
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A function that imports a module with a loop anew, and calls it; its cache lies beside it."""
    (tmp_path / "cached_loop.py").write_text(LOOP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # under a limit of its size Python's own cache is cut short

    def call():
        sys.modules.pop("cached_loop", None)
        double = importlib.import_module("cached_loop").double
        return double(4), sum(double.stats.cache_hits.values())

    yield call
    sys.modules.pop("cached_loop", None)


def cached(folder, suffix):
    return sorted((folder / "__pycache__").glob(f"cached_loop.double-*{suffix}"))


@needs_numba
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("size", [0, 10, 150])
def test_a_cache_that_is_cut_short_is_made_anew(suffix, size, fresh, tmp_path):
    assert [fresh(), fresh()] == [(8, 0), (8, 1)]
    (path,) = cached(tmp_path, suffix)
    assert path.stat().st_size > size
    os.truncate(path, size)
    assert [fresh(), fresh()] == [(8, 0), (8, 1)]


@needs_numba
def test_a_full_disk_costs_the_cache_a_warning(fresh, tmp_path):
    with (
        file_size_limit(100),
        pytest.warns(RuntimeWarning, match=f"compiled anew .* cache in {tmp_path}/__pycache__ .*: File too large"),
    ):
        assert fresh() == (8, 0)
    assert not list((tmp_path / "__pycache__").glob("*.tmp.*"))
    assert [fresh(), fresh()] == [(8, 0), (8, 1)]


@needs_numba
@pytest.mark.parametrize(("name", "exact"), [("exp", np.exp), ("log1p", np.log1p), ("log1p_of_part", np.log1p)])
def test_exp_and_log_are_within_2e_7(name, exact):
    import numba

    from pylayers.losses import float_loops

    function = getattr(float_loops, name)
    every = numba.njit(lambda x: [function(number) for number in x], error_model="numpy")
    small, large = 10.0 ** np.linspace(-37, 0, 20001), np.linspace(0, 86.9, 20001)
    x = {"exp": [-small, -large], "log1p": [small, large, 10.0 ** np.linspace(1, 38, 20001)], "log1p_of_part": [small]}
    x = np.concatenate(x[name]).astype(np.float32)
    np.testing.assert_allclose(every(x), exact(x.astype(float)), rtol=2e-7)
    end = {"exp": -np.inf, "log1p": np.inf, "log1p_of_part": 0}[name]
    special = np.array([np.nan, 0, end], np.float32)
    np.testing.assert_array_equal(every(special), exact(special))


@needs_numba
def test_exp_of_a_difference_keeps_what_the_subtraction_rounds_away():
    import numba

    from pylayers.losses import float_loops

    every = numba.njit(lambda x, y: [float_loops.exp_minus(a, y) for a in x], error_model="numpy")
    sizes = np.array([1e-3, 0.3, 8.1, 12.3, 30.7, 1e4, 16383.9, 16384, 3.3e4, 1e5, 1e6, 1e7], np.float32)
    for peak in (*sizes, *-sizes):
        x = (peak - np.linspace(0, 80, 20001)).astype(np.float32)
        np.testing.assert_allclose(every(x, peak), np.exp(x.astype(float) - float(peak)), rtol=2e-7)
    special = np.array([np.nan, -np.inf, 1], np.float32)
    np.testing.assert_array_equal(every(special, np.float32(1)), [np.nan, 0, 1])


@needs_numba
def test_numbers_are_fetched_beyond_the_end_of_an_array_too():
    import numba

    from pylayers.runtime import prefetch

    fetch = numba.njit(prefetch.fetch.py_func)  # anew, as Numba does not show what it takes from its cache
    array = np.arange(100, dtype=np.float32)
    for start in (0, 90, 10**9):
        fetch(array, start, 1000)
    assert (array == np.arange(100)).all()
    assert "call void @llvm.prefetch" in next(iter(fetch.inspect_llvm().values()))


@needs_numba
def test_exp_of_float64_is_within_1e_9():
    import numba

    from pylayers.losses import float_loops

    every = numba.njit(lambda x: [float_loops.exp64(number) for number in x], error_model="numpy")
    x = -np.concatenate([10.0 ** np.linspace(-300, 0, 20001), np.linspace(0, 699, 20001)])
    np.testing.assert_allclose(every(x), np.exp(x), rtol=1e-9)
    np.testing.assert_array_equal(every(np.array([np.nan, 0, -np.inf, -1e300])), [np.nan, 1, 0, 0])


@needs_numba
def test_a_loop_does_not_inherit_its_callers_fastmath():
    """Numba lets it, where the loop says nothing of its own: what the subtraction rounds away would become 0."""
    from pylayers.runtime.loops import REORDERED, compiled

    @compiled()
    def rest(a, b):
        difference = a - b
        virtual = difference + b
        return (a - virtual) - (b - (virtual - difference))

    @compiled(fastmath=REORDERED)
    def total(x, b):
        found = np.float32(0)
        for a in x:
            found += rest(a, b)
        return found

    x, b = np.full(3, 1e-3, np.float32), np.float32(10.1)
    exact = 3 * ((x[0].astype(float) - float(b)) - float(x[0] - b))
    assert abs(exact) > 1e-7
    np.testing.assert_allclose(total(x, b), exact, rtol=1e-6)
