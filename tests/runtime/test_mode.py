"""Which mode Caffe is in, as far as that can be known without a GPU."""

import ctypes
from types import SimpleNamespace

import caffe
import pytest
from caffe import _caffe

from pylayers.runtime import mode


@pytest.fixture
def cpu_mode_after():
    """CPU mode when the test is over."""
    yield
    caffe.set_mode_cpu()


@pytest.mark.usefixtures("cpu_mode_after")
def test_the_mode_is_read_from_libcaffe():
    read = mode.find_reader()
    for _ in range(2):
        caffe.set_mode_gpu()  # a number and no more, until something runs
        assert read() == mode.GPU
        caffe.set_mode_cpu()
        assert read() == mode.CPU


@pytest.mark.parametrize("name", ["solver_count", "solver_rank"])
def test_a_libcaffe_with_other_members_is_not_trusted(name, monkeypatch):
    monkeypatch.setattr(_caffe, name, lambda: 17)
    assert mode.find_reader() is None


def test_a_libcaffe_that_keeps_its_symbols_is_not_trusted(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: SimpleNamespace())
    assert mode.find_reader() is None


@pytest.mark.usefixtures("cpu_mode_after")
def test_on_gpu_follows_the_mode_and_touches_no_blob(monkeypatch):
    reader = mode.find_reader()
    monkeypatch.setattr(mode, "CUDA_BUILD", True)
    monkeypatch.setattr(mode, "_driver", lambda: "a driver")
    monkeypatch.setattr(mode, "_reader", lambda: reader)
    caffe.set_mode_gpu()
    assert mode.on_gpu(None)
    caffe.set_mode_cpu()
    assert not mode.on_gpu(None)


@pytest.mark.parametrize("build", [False, True])
def test_without_a_cuda_build_or_a_driver_it_is_the_cpu(build, monkeypatch):
    monkeypatch.setattr(mode, "CUDA_BUILD", build)
    monkeypatch.setattr(mode, "_driver", lambda: None)
    assert not mode.on_gpu(None)
