"""GPU mode as users have it: the caffe command, switches of the mode, streams, memory, errors, waiting."""

import gc
import os
import re
import subprocess
import time

import caffe
import numpy as np
import pytest
from harness import ROOT
from harness.caffe_command import CAFFE, SOLVER, environment, losses
from harness.closeness import assert_same_results
from harness.examples import EXAMPLES, ids
from harness.losses import LOSSES
from harness.nets import (
    CHANNEL_SUM,
    CONSTANTS,
    DICE,
    EUCLIDEAN,
    FOCAL,
    L1,
    SIGMOID,
    SMOOTH_L1,
    SOFTMAX,
    TRIPLET,
    fill,
    load,
    loss_index,
    net_text,
    python_layer,
    run,
    run_again,
)

from pylayers.runtime import gpu, mode

pytestmark = pytest.mark.gpu
KERNEL_LOSSES = {name: loss for name, loss in LOSSES.items() if loss.module == "pylayers"}
over_kernels = pytest.mark.parametrize("loss", KERNEL_LOSSES.values(), ids=KERNEL_LOSSES.keys())


@pytest.fixture
def launches(monkeypatch):
    """The kernels that are launched, a list that grows."""
    found = []
    launch = gpu.backend.launch

    def count(*arguments):
        found.append(arguments)
        launch(*arguments)

    monkeypatch.setattr(gpu.backend, "launch", count)
    return found


@pytest.fixture
def cupy():
    return gpu.backend.cupy


def make(loss, num=4):
    bottoms = loss.bottoms(num)
    net = load(net_text(loss.layer(), bottoms))
    fill(net, bottoms)
    return net, bottoms


def test_the_mode_is_read_from_libcaffe():
    """Not by the kind of memory, which is second best."""
    read = mode.find_reader()
    assert read() == mode.GPU
    caffe.set_mode_cpu()
    assert read() == mode.CPU


@over_kernels
def test_the_kind_of_memory_tells_the_mode_too(loss, monkeypatch):
    monkeypatch.setattr(mode, "_reader", lambda: None)
    expected = {}
    for set_mode, on_gpu in ((caffe.set_mode_gpu, True), (caffe.set_mode_cpu, False)):
        set_mode()
        net, bottoms = make(loss)
        expected[on_gpu] = run_again(net, bottoms)
        assert mode.on_gpu(net.blobs["loss"]) == on_gpu
    assert_same_results(expected[True], expected[False])


@over_kernels
def test_a_net_built_in_cpu_mode_runs_in_gpu_mode_and_back(loss, launches):
    caffe.set_mode_cpu()
    net, bottoms = make(loss)
    expected = run_again(net, bottoms)
    assert not launches
    for _ in range(2):
        caffe.set_mode_gpu()
        fill(net, bottoms)
        assert_same_results(run_again(net, bottoms), expected)
        assert len(launches) == 2
        launches.clear()
        caffe.set_mode_cpu()
        fill(net, bottoms)
        assert_same_results(run_again(net, bottoms), expected)
        assert not launches


@over_kernels
@pytest.mark.parametrize("non_blocking", [False, True])
def test_another_stream_of_the_callers_is_current(loss, non_blocking, cupy):
    bottoms = loss.bottoms(4)
    expected = run(loss.layer(), bottoms)
    with cupy.cuda.Stream(non_blocking=non_blocking):
        for _ in range(20):
            found = run(loss.layer(), bottoms)
    assert_same_results(found, expected)
    assert found.loss == expected.loss


@over_kernels
def test_10000_iterations_take_no_more_memory(loss, cupy):
    net, _ = make(loss, num=64)

    def iterate(number):
        for _ in range(number):
            net.forward()
            net.backward()
        cupy.cuda.runtime.deviceSynchronize()
        return cupy.cuda.runtime.memGetInfo()[0]

    gc.collect()  # what earlier tests have left may be freed at any time
    before = iterate(100)
    assert iterate(10_000) >= before  # bytes that are free


def test_reshapes_take_no_more_memory(cupy):
    loss = LOSSES["softmax"]
    net, _ = make(loss, num=16)
    gc.collect()
    free = []
    for number in range(300):
        bottoms = loss.bottoms(1 + number % 16)
        fill(net, bottoms)
        run_again(net, bottoms)
        free.append(cupy.cuda.runtime.memGetInfo()[0])
    assert free[-1] >= free[50]


LABELS = {"scores": np.zeros((64, 10), np.float32), "label": np.zeros(64, np.float32)}


@pytest.mark.parametrize("wrong", [-1, 10, 2.5, 1e9, -1e20, np.nan, np.inf])
def test_a_wrong_label_is_an_error_at_most_one_iteration_late(wrong):
    net = load(net_text(python_layer(SOFTMAX, LABELS), LABELS))
    fill(net, LABELS)
    net.blobs["label"].data[5] = wrong

    def iterate():
        for _ in range(2):
            net.forward()
            net.backward()

    with pytest.raises(ValueError, match=rf"holds {re.escape(f'{wrong:g}')} at \(5,\); a label must be a whole number"):
        iterate()
    net.blobs["label"].data[5] = 3
    net.forward()
    net.backward()


def train(solver):
    command = [CAFFE, "train", f"--solver={solver}", "--gpu=0"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())


@pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")
@pytest.mark.parametrize("path", EXAMPLES, ids=ids(EXAMPLES))
def test_caffe_train(path, tmp_path):
    found = []
    for net in (path, path.with_name(f"{path.stem}_builtin.prototxt")):
        solver = tmp_path / f"{net.stem}_solver.prototxt"
        solver.write_text(SOLVER.format(net=net))
        done = train(solver)
        assert "losses run on the CPU" not in done.stderr
        found.append(losses(done))
    assert len(set(found[0])) == 10
    assert found[0] == pytest.approx(found[1], rel=1e-5)  # the log has six digits


@pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")
def test_caffe_train_with_a_loss_over_arrays():
    found = {}
    for is_gpu in (True, False):
        command = [CAFFE, "train", "--solver=prototxt/own_loss/log_cosh_loss_solver.prototxt", *(["--gpu=0"] * is_gpu)]
        path = os.pathsep.join(filter(None, ["prototxt/own_loss", os.environ.get("PYTHONPATH")]))
        variables = {**environment(), "PYTHONPATH": path}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)
        assert "CuPy cannot be used" not in done.stderr
        found[is_gpu] = losses(done)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-3)
    assert found[True][-1] < 0.8 * found[True][0]


SPIN = r"""
extern "C" __global__ void spin(long long cycles) {
  long long start = clock64();
  while (clock64() - start < cycles) {}
}
"""


@pytest.mark.parametrize("name", [EUCLIDEAN, CHANNEL_SUM, SOFTMAX, SMOOTH_L1, L1, SIGMOID, FOCAL, DICE, TRIPLET])
def test_neither_forward_nor_backward_waits_for_the_gpu(name, cupy):
    """Behind a kernel that takes a second or so, both calls return before it is done."""
    kit = {key: loss for key, loss in LOSSES.items() if loss.module == "pylayers"}
    (loss,) = (loss for key, loss in kit.items() if loss.name == name and "," not in key)
    net, _ = make(loss)
    net.forward()
    net.backward()
    index = loss_index(net)
    bottom = [net.blobs[blob] for blob in loss.shapes]
    top = [net.blobs["loss"]]
    flags = [blob not in CONSTANTS for blob in loss.shapes]
    layer = net.layers[index]
    spin = cupy.RawKernel(SPIN, "spin")
    with cupy.cuda.Stream.null:
        spin((1,), (1,), (1,))
        cupy.cuda.runtime.deviceSynchronize()
        done = cupy.cuda.Event(disable_timing=True)
        start = time.perf_counter()
        spin((1,), (1,), (2 * 10**9,))
        done.record()
        layer.forward(bottom, top)
        layer.backward(top, flags, bottom)
        seconds = time.perf_counter() - start
        assert not done.done
        done.synchronize()
    assert seconds < 0.1 * (time.perf_counter() - start)


def test_each_device_keeps_the_callers_current_one(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("this takes two GPUs")
    loss = LOSSES["softmax"]
    net, bottoms = make(loss)
    expected = run_again(net, bottoms)
    index = loss_index(net)
    with cupy.cuda.Device(1):
        net.layers[index].forward([net.blobs[name] for name in bottoms], [net.blobs["loss"]])
        assert cupy.cuda.runtime.getDevice() == 1
    assert float(net.blobs["loss"].data) == expected.loss
