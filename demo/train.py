"""Trains each net of the demo twice from one seed, with a Python loss and with Caffe's own, and compares.

Run it from the root of the clone (`make demo` does). It downloads nothing, prints two tables, and
writes curves.png and segmentation.png into build/demo. Exit status 1 if the loss curves of a pair differ by more
than 1e-4, 2 if a file cannot be written.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple, Optional

os.environ.setdefault("GLOG_minloglevel", "2")  # warnings and errors only; Caffe reads it at import

import caffe
import demo_data
import numpy as np
import report
import scores
import segmentation_data
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from rich.progress import Progress

from pylayers.caffe_nets.build import written
from pylayers.errors import UserError, system_message

NETS = Path("prototxt/demo")
OUTPUT = Path("build/demo")
TOLERANCE = 1e-4  # largest relative difference between the loss curves of a pair

SEGMENTATION = "segmentation"
EXPERIMENTS = {
    "digits": "digits",
    "digits_weighted": "weighted digits",
    "autoencoder": "auto-encoder",
    "channel_sum": "channel sum",
    SEGMENTATION: "segmentation",
}
RARE_CLASSES = {
    "digits": demo_data.RARE_DIGITS,
    "digits_weighted": demo_data.RARE_DIGITS,
    SEGMENTATION: (segmentation_data.RARE,),
}


class Test(NamedTuple):
    """A batch of the test net: its images, its labels, the class found for each, and the confusion matrix."""

    image: np.ndarray
    label: np.ndarray
    found: np.ndarray
    confusion: np.ndarray


class Run(NamedTuple):
    """One training: the loss at each iteration, the seconds of a step, accuracy, the rare classes' mean recall."""

    losses: np.ndarray
    step: float
    accuracy: float = float("nan")
    rare_recall: float = float("nan")
    test: Optional[Test] = None


def read_solver(name, net, iterations=None):
    """The solver of the experiment `name`, for `net`; it runs as long as it says, or for `iterations`."""
    solver = text_format.Parse((NETS / f"{name}_solver.prototxt").read_text(), caffe_pb2.SolverParameter())
    solver.net = str(net)
    solver.max_iter = iterations or solver.max_iter
    return solver


def train(solver_param, tick, rare=()):
    """Trains a net through solver.step, calling `tick` after each iteration, and tests it where it has a test net."""
    with written(solver_param) as file:
        solver = caffe.get_solver(file)
    losses, times = [], []
    for _ in range(solver_param.max_iter):
        start = time.perf_counter()
        solver.step(1)
        times.append(time.perf_counter() - start)
        losses.append(float(solver.net.blobs["loss"].data))
        tick()
    run = Run(np.array(losses), statistics.median(times))
    if not len(solver.test_nets):
        return run
    test = run_test(solver)
    recall = scores.recall(test.confusion)[list(rare)].mean()
    return run._replace(accuracy=scores.accuracy(test.confusion), rare_recall=float(recall), test=test)


def run_test(solver):
    """What the test net finds, with the parameters of the net that was trained."""
    net = solver.test_nets[0]
    net.share_with(solver.net)
    net.forward()
    found = net.blobs["scores"].data.argmax(axis=1)
    image, label = net.blobs["data"].data.copy(), net.blobs["label"].data.reshape(found.shape).copy()
    return Test(image, label, found, scores.confusion(label, found, net.blobs["scores"].shape[1]))


def without_class_weights(path, folder):
    """Writes the net of `path` without the class weights of its Python loss into `folder`, and returns the new path."""
    net = text_format.Parse(path.read_text(), caffe_pb2.NetParameter())
    (loss,) = (layer for layer in net.layer if layer.type == "Python")
    options = json.loads(loss.python_param.param_str)
    del options["class_weights"]
    loss.python_param.param_str = json.dumps(options)
    written = folder / f"{path.stem}_without_weights.prototxt"
    demo_data.write_whole(written, text_format.MessageToString(net).encode())
    return written


def train_all(iterations):
    """Trains every net with a progress bar.

    Returns:
        The pairs of runs, a dict from title to (Python, built-in), and the run of the segmentation net without class
        weights.
    """
    pairs = {}
    plain = without_class_weights(NETS / f"{SEGMENTATION}.prototxt", OUTPUT)
    with Progress() as progress:

        def run(name, title, nets):
            solvers = [read_solver(name, net, iterations) for net in nets]
            tick = functools.partial(progress.advance, progress.add_task(title, total=sum(s.max_iter for s in solvers)))
            return [train(solver, tick, RARE_CLASSES.get(name, ())) for solver in solvers]

        for name, title in EXPERIMENTS.items():
            pairs[title] = run(name, title, [NETS / f"{name}{twin}.prototxt" for twin in ("", "_builtin")])
        (unweighted,) = run(SEGMENTATION, "segmentation without weights", [plain])
    return pairs, unweighted


def main(arguments=None):
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, metavar="N", help="of each net (default: as its solver says)")
    options = parser.parse_args(arguments)
    if not NETS.is_dir():
        parser.error(f"there is no {NETS} here; run it from the root of the clone")
    try:
        return compare_all(options)
    except UserError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(system_message(error), file=sys.stderr)
    return 2


def compare_all(options):
    """Trains all nets, prints the tables and draws the pictures; returns the exit status.

    Raises:
        UserError, OSError: a file cannot be written.
    """
    demo_data.write_all(OUTPUT, NETS)
    pairs, unweighted = train_all(options.iterations)
    report.print_table(pairs)
    weighted, builtin = pairs[EXPERIMENTS[SEGMENTATION]]
    report.print_classes({"Python": weighted, "Caffe": builtin, "no weights": unweighted})
    report.plot(pairs, OUTPUT / "curves.png")
    report.plot_labels({"no weights": unweighted, "class weights": weighted}, OUTPUT / "segmentation.png")
    worst = report.worst_difference(pairs)
    if not worst <= TOLERANCE:  # NaN included
        print(f"the loss curves of a pair differ by {worst:.1e} relative, more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
