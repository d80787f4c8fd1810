"""Small nets, their data and solvers for the tests of training, and the commands that train them."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caffe.proto import caffe_pb2

BIN = Path(sys.prefix) / "bin"
MPIRUN = [BIN / "mpirun", "--oversubscribe"]
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or not MPIRUN[0].exists(),
    reason="this environment has no mpi4py, or no mpirun beside it: pip install 'pylayers[mpi]'",
)
DATA = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" include {{ phase: TRAIN }}
  hdf5_data_param {{ source: "data.txt" batch_size: {batch} {data} }} }}
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" include {{ phase: TEST }}
  hdf5_data_param {{ source: "data.txt" batch_size: 8 {data} }} }}
"""
NET = """
name: "small"
{data}
layer {{ name: "hidden" type: "InnerProduct" bottom: "data" top: "hidden" param {{ name: "w" }} param {{ lr_mult: 2 }}
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "tanh" type: "TanH" bottom: "hidden" top: "hidden" }}
layer {{ name: "again" type: "InnerProduct" bottom: "hidden" top: "again" param {{ name: "w" }} param {{ lr_mult: 0 }}
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
{more}
layer {{ name: "scores" type: "InnerProduct" bottom: "again" top: "scores"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "Python" bottom: "scores" bottom: "label" top: "loss" loss_weight: 0.5
  python_param {{ module: "{module}" layer: "{layer}" param_str: '{options}' }} }}
"""
SOLVER = """
net: "{net}" random_seed: 3 base_lr: {rate} weight_decay: 0.01 lr_policy: "step" gamma: 0.5 stepsize: 7
max_iter: {iterations} display: 5 average_loss: 3 test_iter: 2 test_interval: {tests} snapshot_prefix: "{prefix}" {more}
"""


def write_data(**rows):
    """Writes the rows, arrays, as data.h5, and data.txt that lists it."""
    h5py = pytest.importorskip("h5py")
    with h5py.File("data.h5", "w") as file:
        for name, values in rows.items():
            file[name] = values.astype(np.float32)
    Path("data.txt").write_text("data.h5\n")


def write(
    name,
    batch=8,
    more="",
    module="pylayers",
    layer="WeightedSoftmaxLossLayer",
    options="",
    layers="",
    data="",
    source=DATA,
    rate=0.1,
    iterations=20,
    tests=10,
):
    """Writes a net and its solver, whose snapshots are called as they are.

    Args:
        name: of the solver's file without ".prototxt"; the net's has "_net" behind it.
        batch: the batch size of the train net.
        more: settings for the solver; SGD's momentum is 0.9 where they name no type.
        module: of the loss.
        layer: the loss.
        options: its param_str.
        layers: prototxt text of layers before the scores, in place on "again".
        data: settings of both data layers.
        source: the data layers.
        rate: base_lr.
        iterations: max_iter.
        tests: test_interval.
    """
    source = source.format(batch=batch, data=data)
    net = NET.format(data=source, module=module, layer=layer, options=options, more=layers)
    Path(f"{name}_net.prototxt").write_text(net)
    momentum = "" if re.search(r"type: |momentum: ", more) else "momentum: 0.9"
    solver = SOLVER.format(
        net=f"{name}_net.prototxt",
        prefix=name,
        more=f"{momentum} {more}",
        rate=rate,
        iterations=iterations,
        tests=tests,
    )
    Path(f"{name}.prototxt").write_text(solver)


def environment(**more):
    variables = {"GLOG_minloglevel": "0", "GLOG_logtostderr": "1", "OMP_NUM_THREADS": "1", **more}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **root, **variables}


def run(*command, **more):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment(**more), check=False
    )


def train(name, *options, ranks=0, **more):
    """Runs `pylayers train`, with mpirun where `ranks` is not 0."""
    launch = [*MPIRUN, "-n", ranks] if ranks else []
    return run(*launch, BIN / "pylayers", "train", "--solver", f"{name}.prototxt", *options, **more)


def parameters(path, layer=None):
    """The parameters in a .caffemodel, or those of one of its layers."""
    net = caffe_pb2.NetParameter()
    net.ParseFromString(Path(path).read_bytes())
    return [np.array(blob.data, np.float32) for each in net.layer if layer in (None, each.name) for blob in each.blobs]


def difference(first, second):
    """Of two .caffemodel files: the largest in a blob, ÷ the largest value in it."""
    pairs = zip(parameters(first), parameters(second))
    return max(np.abs(a - b).max() / (np.abs(b).max() or 1) for a, b in pairs)


def said(log):
    """What a log says of the training, without times and places in source files."""
    lines = [line.partition("] ")[2] for line in log.splitlines()]
    kept = [line for line in lines if re.match(r"Iteration|Solving|Learning|    T|Optimization|Test", line)]
    return [re.sub(r"\(.*iters\)", "", line) for line in kept]
