"""Which mode Caffe is in, and which GPU a blob is on, as far as that can be known without a GPU."""

import contextlib
import functools
from types import SimpleNamespace

import caffe
import pytest
from caffe import _caffe

from pylayers.runtime import gpu as blobs


@pytest.fixture
def new_reader(monkeypatch):
    """`_mode_reader` as at the first call, and CPU mode when the test is over."""
    monkeypatch.setattr(blobs, "_mode_reader", functools.cache(blobs._mode_reader.__wrapped__))
    yield blobs._mode_reader
    caffe.set_mode_cpu()


def test_the_mode_is_read_from_libcaffe(new_reader):
    read = new_reader()
    for _ in range(2):
        caffe.set_mode_gpu()  # a number and no more, until something runs
        assert read() == 1
        caffe.set_mode_cpu()
        assert read() == 0


@pytest.mark.parametrize("name", ["solver_count", "solver_rank"])
def test_a_libcaffe_with_other_members_is_not_trusted(new_reader, name, monkeypatch):
    monkeypatch.setattr(_caffe, name, lambda: 17)
    assert new_reader() is None


def test_a_libcaffe_that_keeps_its_symbols_is_not_trusted(new_reader, monkeypatch):
    monkeypatch.setattr(blobs.ctypes, "CDLL", lambda path: SimpleNamespace())
    assert new_reader() is None


def test_on_gpu_follows_the_mode_and_touches_no_blob(new_reader, monkeypatch):
    reader = new_reader()
    monkeypatch.setattr(blobs, "CUDA_BUILD", True)
    monkeypatch.setattr(blobs, "_cuda_driver", lambda: "a driver")
    monkeypatch.setattr(blobs, "_mode_reader", lambda: reader)
    caffe.set_mode_gpu()
    assert blobs.on_gpu(None)
    caffe.set_mode_cpu()
    assert not blobs.on_gpu(None)


@pytest.mark.parametrize("build", [False, True])
def test_without_a_cuda_build_or_a_driver_it_is_the_cpu(build, monkeypatch):
    monkeypatch.setattr(blobs, "CUDA_BUILD", build)
    monkeypatch.setattr(blobs, "_cuda_driver", lambda: None)
    assert not blobs.on_gpu(None)


@pytest.mark.parametrize(("owner", "current"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("error", [None, ValueError])
def test_the_gpu_that_owns_the_blob_is_current_and_then_the_callers_again(owner, current, error, monkeypatch):
    now = [current]
    runtime = SimpleNamespace(
        pointerGetAttributes=lambda pointer: SimpleNamespace(device=owner),
        getDevice=lambda: now[0],
        setDevice=lambda device: now.__setitem__(0, device),
    )
    monkeypatch.setattr(blobs, "cupy_module", lambda: SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    with contextlib.suppress(ValueError), blobs.device_of(SimpleNamespace(_gpu_data_ptr=4096)) as device:
        assert device == now[0] == owner
        if error:
            raise error
    assert now[0] == current
