"""Set-up for all tests."""

import functools
import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # Caffe reads it at import: errors only

import pytest

ROOT = Path(__file__).parent.parent
for folder in ("demo", "prototxt/own_loss"):
    sys.path.insert(0, str(ROOT / folder))


@functools.cache
def no_gpu():
    """Why the tests marked gpu cannot run here; None where they can."""
    from pylayers.runtime import gpu as blobs

    if not blobs.CUDA_BUILD:
        return "this Caffe is built for the CPU alone"
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # no module, no driver, no GPU
        return f"no GPU for CuPy: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None if blobs.cupy_module() else "CuPy cannot compute on this GPU"


def must_test_gpu():
    """Whether it is a failure that there is no GPU, as under `make test-gpu`."""
    return bool(os.environ.get("PYLAYERS_TEST_GPU"))


def pytest_runtest_setup(item):
    """Skips the tests marked gpu where they cannot run, or fails them."""
    if item.get_closest_marker("gpu") and no_gpu():
        (pytest.fail if must_test_gpu() else pytest.skip)(no_gpu())


@pytest.fixture(autouse=True)
def _caffes_mode(request):
    """GPU mode for the tests marked gpu."""
    if not request.node.get_closest_marker("gpu"):
        yield
        return
    import caffe

    caffe.set_device(0)
    caffe.set_mode_gpu()
    yield
    caffe.set_mode_cpu()


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    """The prototxt files name paths that start at the root of the clone."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def host_cupy(monkeypatch):
    """Makes the layers believe that Caffe is in GPU mode, that its memory is there, and that this is CuPy."""
    from host_kernels import HostCupy

    from pylayers import kernel_layer as gpu
    from pylayers import layer
    from pylayers.runtime import gpu as blobs

    cupy = HostCupy()
    monkeypatch.setattr(layer, "on_gpu", lambda blob: True)
    monkeypatch.setattr(blobs, "cupy_module", lambda: cupy)
    for cached in ("_function", "_module"):  # of another test's CuPy
        monkeypatch.setattr(gpu, cached, functools.cache(getattr(gpu, cached).__wrapped__))
    monkeypatch.setattr(blobs, "gpu_data_pointer", lambda blob: blob.data.ctypes.data)
    monkeypatch.setattr(blobs, "gpu_diff_pointer", lambda blob: blob.diff.ctypes.data)
    return cupy


@pytest.fixture(scope="session")
def demo_data():
    """The data that the demo's nets read, as `make demo` writes them."""
    import datasets

    datasets.write_all(ROOT / "build/demo", ROOT / "prototxt/demo")
