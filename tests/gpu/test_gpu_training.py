"""`pylayers train` on GPUs: in one process against `caffe train`, and on two GPUs against one."""

import numpy as np
import pytest
from harness.caffe_command import CAFFE
from harness.training import difference, needs_mpi, run, said, train, write, write_data

pytestmark = pytest.mark.gpu


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    write_data(data=random.normal(size=(48, 6)), label=random.integers(0, 3, 48))
    return tmp_path


@pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")
def test_one_gpu_is_caffe_train(folder):
    for name in ("theirs", "ours"):
        write(name)
    caffe = run(CAFFE, "train", "--solver=theirs.prototxt", "--gpu=0")
    ours = train("ours", "--gpu", "0")
    assert (caffe.returncode, ours.returncode) == (0, 0), ours.stderr
    assert difference("ours_iter_20.caffemodel", "theirs_iter_20.caffemodel") < 1e-6
    assert len(said(ours.stderr)) == len(said(caffe.stderr)) - 1


@needs_mpi
@pytest.mark.parametrize("layer", ["WeightedSoftmaxLossLayer", "FocalLossLayer"])
def test_two_gpus_are_one(layer, folder):
    """By NCCL where Caffe has it; labels that are ignored make Z another on each."""
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("this takes two GPUs")
    options = '{"ignore_label": 0}'
    write("one", batch=16, iterations=10, layer=layer, options=options)
    write("two", iterations=10, layer=layer, options=options)
    one, two = train("one", "--gpu", "0"), train("two", "--gpu", "local", ranks=2)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert difference("two_iter_10.caffemodel", "one_iter_10.caffemodel") < 1e-5
