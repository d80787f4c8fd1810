"""`pylayers train` against `caffe train`, and two processes against one with the batches of both."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from caffe.proto import caffe_pb2

h5py = pytest.importorskip("h5py")
BIN = Path(sys.prefix) / "bin"
NET = """
name: "small"
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" include {{ phase: TRAIN }}
  hdf5_data_param {{ source: "data.txt" batch_size: {batch} }} }}
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" include {{ phase: TEST }}
  hdf5_data_param {{ source: "data.txt" batch_size: 8 }} }}
layer {{ name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden" param {{ name: "w" }} param {{ lr_mult: 2 }}
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "tanh" type: "TanH" bottom: "hidden" top: "hidden" }}
layer {{ name: "again" type: "InnerProduct" bottom: "hidden" top: "again" param {{ name: "w" }} param {{ lr_mult: 0 }}
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "again" top: "scores"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "Python" bottom: "scores" bottom: "label" top: "loss" loss_weight: 0.5
  python_param {{ module: "{module}" layer: "{layer}" }} }}
"""
SOLVER = """
net: "{net}" random_seed: 3 base_lr: 0.1 momentum: 0.9 weight_decay: 0.01 lr_policy: "step" gamma: 0.5 stepsize: 7
max_iter: 20 display: 5 average_loss: 3 test_iter: 2 test_interval: 10 snapshot_prefix: "{prefix}" {more}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with data, nets and solvers, the current one."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    with h5py.File("data.h5", "w") as file:
        file["data"] = random.normal(size=(48, 6)).astype(np.float32)
        file["label"] = random.integers(0, 3, 48).astype(np.float32)
    Path("data.txt").write_text("data.h5\n")
    return tmp_path


def write(name, batch=8, more="", module="pylayers", layer="WeightedSoftmaxLossLayer"):
    """Writes a net and its solver, whose snapshots are called as they are."""
    Path(f"{name}_net.prototxt").write_text(NET.format(batch=batch, module=module, layer=layer))
    Path(f"{name}.prototxt").write_text(SOLVER.format(net=f"{name}_net.prototxt", prefix=name, more=more))


def environment(**more):
    variables = {"GLOG_minloglevel": "0", "GLOG_logtostderr": "1", "OMP_NUM_THREADS": "1", **more}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **root, **variables}


def run(*command, **more):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment(**more), check=False
    )


def train(name, *options, ranks=0, **more):
    launch = [*MPIRUN, "-n", ranks] if ranks else []
    return run(*launch, BIN / "pylayers", "train", "--solver", f"{name}.prototxt", *options, **more)


MPIRUN = [BIN / "mpirun", "--oversubscribe"]
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not MPIRUN[0].exists(),
    reason="this environment has no mpi4py, or no mpirun beside it: pip install 'pylayers[mpi]'",
)


def parameters(path):
    net = caffe_pb2.NetParameter()
    net.ParseFromString(Path(path).read_bytes())
    return [np.array(blob.data, np.float32) for layer in net.layer for blob in layer.blobs]


def difference(first, second):
    """The largest in a blob, ÷ the largest value in it."""
    pairs = zip(parameters(first), parameters(second))
    return max(np.abs(a - b).max() / (np.abs(b).max() or 1) for a, b in pairs)


def said(log):
    """What a log says of the training, without times and places in source files."""
    lines = [line.partition("] ")[2] for line in log.splitlines()]
    kept = [line for line in lines if re.match(r"Iteration|Solving|Learning|    T|Optimization|Test", line)]
    return [re.sub(r"\(.*iters\)", "", line) for line in kept]


@pytest.mark.parametrize(
    "more",
    ["", "iter_size: 2", 'type: "Adam" momentum2: 0.999', "clip_gradients: 0.1 snapshot: 7", "test_compute_loss: 1"],
)
def test_one_process_is_caffe_train(more, folder):
    """The same parameters to the last bit, and the same words."""
    write("theirs", more=more)
    write("ours", more=more)
    caffe = run(BIN / "caffe", "train", "--solver=theirs.prototxt")
    ours = train("ours")
    assert (caffe.returncode, ours.returncode) == (0, 0), ours.stderr
    for path in folder.glob("theirs_iter_*.caffemodel"):
        np.testing.assert_equal(parameters(path), parameters(str(path).replace("theirs_", "ours_")))
    # The command says at the end once more that it is done.
    assert said(ours.stderr) == [line.replace("theirs", "ours") for line in said(caffe.stderr)[:-1]]
    assert not list(folder.glob(".*part*"))


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_goes_on_from_a_snapshot(form, folder):
    write("whole", more=f"snapshot: 12 snapshot_format: {form}")  # 12 batches of 8 are two rounds through the data
    assert train("whole").returncode == 0
    write("rest", more=f"snapshot_format: {form}")
    end = ".h5" if form == "HDF5" else ""
    done = train("rest", "--snapshot", f"whole_iter_12.solverstate{end}")
    assert done.returncode == 0, done.stderr
    if form == "BINARYPROTO":
        np.testing.assert_equal(parameters("rest_iter_20.caffemodel"), parameters("whole_iter_20.caffemodel"))
    caffe = run(BIN / "caffe", "train", "--solver=rest.prototxt", f"--snapshot=whole_iter_12.solverstate{end}")
    assert caffe.returncode == 0, caffe.stderr


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("more", ["", 'type: "Nesterov" iter_size: 2 clip_gradients: 0.1'])
def test_several_processes_are_one(ranks, more, folder):
    """Each with a batch of 8, against one process with a batch for all."""
    write("one", batch=8 * ranks, more=more)
    write("many", more=more)
    one, many = train("one"), train("many", ranks=ranks)
    assert (one.returncode, many.returncode) == (0, 0), many.stderr
    assert difference("many_iter_20.caffemodel", "one_iter_20.caffemodel") < 1e-6
    losses = [[float(loss) for loss in re.findall(r"Iteration \d+.*, loss = (\S+)", log.stderr)] for log in (one, many)]
    assert len(losses[0]) == 5
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@needs_mpi
def test_a_rank_that_fails_ends_all(folder):
    Path("mine.py").write_text(
        "import caffe\n"
        "class Mine(caffe.Layer):\n"
        "    def setup(self, bottom, top): self.calls = 0\n"
        "    def reshape(self, bottom, top): top[0].reshape()\n"
        "    def backward(self, top, down, bottom): pass\n"
        "    def forward(self, bottom, top):\n"
        "        self.calls += 1\n"
        "        if self.calls > 3 and caffe.solver_rank() == 1: raise ValueError('no such label')\n"
    )
    write("mine", more="test_initialization: false", module="mine", layer="Mine")
    done = train("mine", ranks=2, PYTHONPATH=str(folder))
    assert done.returncode not in (0, None)
    assert "ValueError: no such label" in done.stderr
    assert re.search(r"rank 1 of 2 on \S+ ends the training", done.stderr)


@needs_mpi
@pytest.mark.parametrize(("number", "ends"), [(signal.SIGUSR1, False), (signal.SIGUSR2, True)])
def test_a_signal_to_mpirun_reaches_all_ranks(number, ends, folder):
    write("long", more="test_initialization: false")
    text = Path("long.prototxt").read_text().replace("max_iter: 20 display: 5", "max_iter: 100000000")
    Path("long.prototxt").write_text(text.replace("test_interval: 10", "test_interval: 100000"))
    command = [*MPIRUN, "-n", "2", BIN / "pylayers", "train", "--solver", "long.prototxt"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            for line in process.stderr:
                if "Learning Rate Policy" in line:
                    break
            time.sleep(0.5)
            process.send_signal(number)
            wait_for(lambda: list(folder.glob("long_iter_*.solverstate")))
            if ends:
                log = process.communicate(timeout=30)[1]
                assert process.returncode == 0
                assert "Optimization stopped early." in log
            else:
                assert process.poll() is None
        finally:
            process.terminate()
    assert not list(folder.glob(".*part*"))


def wait_for(condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 30 seconds")


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        (["--weights", "gone.caffemodel"], "", "there is no file gone.caffemodel"),
        (["--gpu", "0,1"], "", "--gpu 0,1 with 1 process: each process has one GPU; mpirun -n 2 pylayers train --gpu"),
        ([], 'snapshot_prefix: "no/such/a"', 'the folder no/such of snapshot_prefix "no/such/a" is not there'),
        ([], "nett: 1", 'is not a solver: '),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(options, more, message, folder):
    write("bad")
    Path("bad.prototxt").write_text(Path("bad.prototxt").read_text().replace('snapshot_prefix: "bad"', more))
    done = train("bad", *options, GLOG_minloglevel="2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("pylayers train: ")
    assert message in line
