"""Set-up for all tests."""

import fcntl
import functools
import hashlib
import importlib.util
import os

os.environ.setdefault("GLOG_minloglevel", "2")  # Caffe reads it at import: errors only

import pytest
from harness import ROOT


@functools.cache
def no_gpu():
    """Why the tests marked gpu cannot run here; None where they can."""
    from pylayers.errors import first_line
    from pylayers.runtime import blobs, gpu

    if not blobs.CUDA_BUILD:
        return "this Caffe is built for the CPU alone"
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # no module, no driver, no GPU
        return f"no GPU for CuPy: {first_line(error)}"
    return None if gpu.backend.cupy else "CuPy cannot compute on this GPU"


def must_test_gpu():
    """Whether a missing GPU is a failure, as under `make test-gpu`."""
    return bool(os.environ.get("PYLAYERS_TEST_GPU"))


def pytest_runtest_setup(item):
    """Skips the tests marked gpu where they cannot run; fails them where `must_test_gpu`."""
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
    """Runs each test in the root of the clone, where the paths in the prototxt files start."""
    monkeypatch.chdir(ROOT)


# An engine is one of the ways to compute a loss: Numba's loops, the formula with NumPy, and the CUDA kernels, on the
# host or on a GPU. All give the same result.


def pytest_generate_tests(metafunc):
    """Runs each test that asks for an engine with every engine that works here, or with those that its mark names."""
    if "engine" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("engines")
    names = [name for name in _engines() if not mark or name in mark.args]
    engines = [pytest.param(name, marks=pytest.mark.gpu) if name == "gpu" else name for name in names]
    metafunc.parametrize("engine", engines, indirect=True)


@functools.cache
def _engines():
    from harness import host_kernels

    found = ["numba"] if importlib.util.find_spec("numba") else []
    found.append("formula")
    if host_kernels.COMPILER:
        found.append("host")
    if must_test_gpu() or not no_gpu():  # otherwise a thousand tests would be reported as skipped
        found.append("gpu")
    return found


@pytest.fixture
def engine(request, monkeypatch):
    """The engine that computes the losses in this test: "numba", "formula", "host" or "gpu"."""
    from pylayers.runtime import gpu, loops

    if request.param == "formula":
        monkeypatch.setattr(loops, "enabled", lambda: False)
    elif request.param == "host":
        from harness.host_kernels import HostGpu

        monkeypatch.setattr(gpu, "backend", HostGpu())
    return request.param


@pytest.fixture
def quick_children(monkeypatch):
    """Makes child processes quick: they are forks of a server that has imported Caffe."""
    from harness import quick_child

    from pylayers.caffe_nets import child

    quick_child.start()
    monkeypatch.setattr(child, "run_child", quick_child.run_child)


@pytest.fixture(scope="session")
def demo_data():
    """The data that the demo's nets read, as `make demo` writes them."""
    import demo_data

    folder, sources = ROOT / "build/demo", [ROOT / "demo/demo_data.py", *(ROOT / "prototxt/demo").iterdir()]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "written_by_tests", "a+") as stamp:  # of several processes the first one writes
        fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        if stamp.read() != digest:
            demo_data.write_all(folder, ROOT / "prototxt/demo")
            stamp.truncate(0)
            stamp.write(digest)
