"""The seam to CuPy, as far as it can be tried without a GPU."""

import contextlib
import shutil
import subprocess
from types import SimpleNamespace

import caffe
import numpy as np
import pytest
from harness.nets import EUCLIDEAN, python_layer, run

from pylayers.errors import UserError
from pylayers.runtime import blobs, gpu, mode
from pylayers.runtime.gpu import Gpu
from pylayers.tools import device


@pytest.mark.parametrize(("owner", "current"), [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("error", [None, ValueError])
def test_the_gpu_that_owns_the_blob_is_current_and_then_the_callers_again(owner, current, error):
    now = [current]
    runtime = SimpleNamespace(
        pointerGetAttributes=lambda pointer: SimpleNamespace(device=owner),
        getDevice=lambda: now[0],
        setDevice=lambda device: now.__setitem__(0, device),
    )
    backend = Gpu()
    backend.cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    with contextlib.suppress(ValueError), backend.device_of(SimpleNamespace(_gpu_data_ptr=4096)) as device:
        assert device == now[0] == owner
        if error:
            raise error
    assert now[0] == current


def test_an_old_pycaffe_in_gpu_mode_runs_cpu_code_and_says_so_once(monkeypatch):
    backend = Gpu()
    monkeypatch.setattr(gpu, "backend", backend)
    monkeypatch.setattr(mode, "on_gpu", lambda blob: True)
    monkeypatch.setattr(blobs, "GPU_ADDRESSES", False)
    bottoms = {"pred": np.ones((2, 3), np.float32), "target": np.zeros((2, 3), np.float32)}
    with pytest.warns(
        RuntimeWarning, match="run on the CPU in GPU mode: this pycaffe is older than August 2018"
    ) as said:
        losses = [run(python_layer(EUCLIDEAN, bottoms), bottoms).loss for _ in range(2)]
    assert losses == [1.5, 1.5]
    assert len(said) == 1


def test_tools_refuse_the_gpu_with_an_old_pycaffe(monkeypatch):
    monkeypatch.setattr(blobs, "CUDA_BUILD", True)
    monkeypatch.setattr(blobs, "GPU_ADDRESSES", False)
    with pytest.raises(UserError, match="this pycaffe is older than August 2018"):
        device.use("gpu")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_a_build_for_cuda_is_known_by_its_code(tmp_path):
    (tmp_path / "cuda.c").write_text("void _ZN5caffe16caffe_gpu_memcpyEmPKvPv(void) {}\n")
    subprocess.run(["cc", "-shared", "-o", tmp_path / "cuda.so", tmp_path / "cuda.c"], check=True)
    assert blobs.has_cuda_code(tmp_path / "cuda.so")
    assert blobs.has_cuda_code(caffe._caffe.__file__) == blobs.CUDA_BUILD
    assert not blobs.has_cuda_code(tmp_path / "none.so")
