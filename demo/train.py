"""Trains each net of the demo twice from one seed, with a Python loss and with Caffe's own, and compares.

Run it from the root of the clone (`make demo` does). It downloads nothing, prints a table and
writes build/demo/curves.png. Exit status 1 if a pair of loss curves differs by more than 1e-4.
"""

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GLOG_minloglevel", "2")  # warnings and errors only; Caffe reads it at import

import caffe
import demo_data
import numpy as np
import report
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from rich.progress import Progress

NETS = Path("prototxt/demo")
OUTPUT = Path("build/demo")
TOLERANCE = 1e-4  # largest relative difference between the loss curves of a pair

EXPERIMENTS = {
    "digits": "digits",
    "digits_weighted": "weighted digits",
    "autoencoder": "auto-encoder",
    "channel_sum": "channel sum",
}


class Run(NamedTuple):
    """One training: the loss at each iteration, the seconds of a step, accuracy, and mean recall of the rare digits."""

    losses: np.ndarray
    step: float
    accuracy: float
    rare_recall: float


def read_solver(name, net):
    """The solver of the experiment `name`, for `net`."""
    solver = text_format.Parse((NETS / f"{name}_solver.prototxt").read_text(), caffe_pb2.SolverParameter())
    solver.net = str(net)
    return solver


def train(solver_param, tick):
    """Trains a net through solver.step, calling `tick` after each iteration."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text_format.MessageToString(solver_param))
        file.flush()
        solver = caffe.get_solver(file.name)
    losses, times = [], []
    for _ in range(solver_param.max_iter):
        start = time.perf_counter()
        solver.step(1)
        times.append(time.perf_counter() - start)
        losses.append(float(solver.net.blobs["loss"].data))
        tick()
    return Run(np.array(losses), statistics.median(times), *score(solver))


def score(solver):
    """Accuracy and mean recall of the rare digits on the test net; NaN where there is none."""
    if not len(solver.test_nets):
        return float("nan"), float("nan")
    net = solver.test_nets[0]
    net.share_with(solver.net)
    net.forward()
    label, found = net.blobs["label"].data, net.blobs["scores"].data.argmax(axis=1)
    recalls = [np.mean(found[label == digit] == digit) for digit in demo_data.RARE_DIGITS]
    return float(np.mean(found == label)), float(np.mean(recalls))


def main(arguments=None):
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, metavar="N", help="of each net (default: as its solver says)")
    options = parser.parse_args(arguments)
    if not NETS.is_dir():
        parser.error(f"there is no {NETS} here; run it from the root of the clone")
    demo_data.write_all(OUTPUT, NETS)
    pairs = {}
    with Progress() as progress:
        for name, title in EXPERIMENTS.items():
            solvers = [read_solver(name, NETS / f"{name}{twin}.prototxt") for twin in ("", "_builtin")]
            for solver in solvers:
                solver.max_iter = options.iterations or solver.max_iter
            task = progress.add_task(title, total=sum(solver.max_iter for solver in solvers))
            pairs[title] = [train(solver, functools.partial(progress.advance, task)) for solver in solvers]
    report.print_table(pairs)
    report.plot(pairs, OUTPUT / "curves.png")
    worst = report.worst_difference(pairs)
    if not worst <= TOLERANCE:  # NaN included
        print(f"the loss curves of a pair differ by {worst:.1e} relative, more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
