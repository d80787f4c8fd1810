"""`pylayers compare --all`: each layer of the kit against each of its built-in twins, over shapes and options.

Every case has at most 100,000 elements, standard normal as all inputs are. Caffe sums its losses in float32,
whose error grows with the number of terms: on larger blobs its own loss is more than 1e-6 away from the exact
one, and a difference would say nothing about the Python layer. Softmax losses, added up one label after the
other there, have at most 300 labels for the same reason. Each case is judged by its difference from the twin;
the two columns against float64 tell whose error that is.
"""

import functools
import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np

from pylayers.caffe_nets import read as nets
from pylayers.tools import report as output
from pylayers.tools.compare import two_nets as compare
from pylayers.tools.twins import PAIRS, Case, net_text

NORMALIZATIONS = ("VALID", "FULL", "BATCH_SIZE", "NONE")
EUCLIDEAN_SHAPES = ((1, 1000), (64, 10), (5,), (7, 3, 5), (4, 3, 32, 32), (100, 1000))
# pred and target, whose numbers of channels may differ.
CHANNEL_SHAPES = (
    ((1, 3, 8, 8), (1, 1, 8, 8)),
    ((4, 3, 32, 32), (4, 1, 32, 32)),
    ((8, 5, 9, 7), (8, 5, 9, 7)),
    ((2, 21, 40, 40), (2, 2, 40, 40)),
)
ALL_AXES_SHAPES = (
    ((64, 10), (64, 1)),
    ((4, 3, 8, 8), (4, 1)),
    ((8, 5, 9, 7), (8, 5, 9, 7)),
    ((32, 3, 32, 32), (32, 1, 32, 32)),
)
# scores and the classes' axis.
SOFTMAX_SHAPES = (
    ((1, 1000), 1),
    ((64, 10), 1),
    ((16, 1000), 1),
    ((6, 5, 4), -1),
    ((2, 21, 12, 12), 1),
    ((2, 30, 10, 8), 2),
    ((4, 100, 7, 7), 1),
)


def cases():
    """All cases, a list of `Case`."""
    grid = []
    for normalization in ("BATCH_SIZE", "FULL", "NONE"):
        options = {"normalization": normalization}
        grid += [Case("euclidean", shape, options) for shape in EUCLIDEAN_SHAPES]
        grid += [Case("channel-sum", shape, options, target) for shape, target in CHANNEL_SHAPES]
        grid += [Case("channel-sum-all", shape, options, target) for shape, target in ALL_AXES_SHAPES]
    for normalization, (shape, axis), ignore in itertools.product(NORMALIZATIONS, SOFTMAX_SHAPES, (None, 255, 0)):
        options = {"normalization": normalization, "axis": axis}
        if ignore is not None:
            options["ignore_label"] = ignore
        grid.append(Case("softmax", shape, options))
        weights = [round(0.1 + index % 7 * 0.5, 1) for index in range(shape[axis])]
        # InfogainLoss reads a matrix of classes × classes for each position.
        if shape[axis] <= 100:
            grid.append(Case("softmax-weights", shape, {**options, "class_weights": weights}))
        if axis == 1 and ignore != 0:
            grid.append(Case("softmax-two", shape, options))
    return sorted(grid, key=lambda case: list(PAIRS).index(case.pair))


def run(options):
    """The command; takes and returns what `compare.run` does."""
    settings = compare.Settings(**{field: getattr(options, field) for field in compare.Settings._fields})
    with output.result_files(options) as (json_file, plot_file):
        rows = compare_all(cases(), settings)
        good = all(row["within_tolerance"] for row in rows)
        result = {**settings._asdict(), "within_tolerance": good, "rows": rows, "machine": output.machine()}
        _print(rows, settings)
        output.write_json(json_file, result)
        if plot_file:
            compare.plot(
                plot_file,
                ("Python", "Caffe"),
                {row["layer"]: row["errors"] for row in rows},
                {f"{row['layer']}\n{row['twin']}": [row["times_ms"][net] for net in "ab"] for row in rows},
            )
    return 0 if good else 1


def compare_all(grid, settings):
    """Compares every case.

    Args:
        grid: a list of `Case`.
        settings: `compare.Settings`.

    Returns:
        A list with one dict for each pair that occurs in the grid. ``times_ms`` holds the sums over the cases.
    """
    results = {}
    console = output.need("rich.console").Console(file=sys.stderr)
    track = output.need("rich.progress").track
    with tempfile.TemporaryDirectory() as folder:
        for case in track(grid, "comparing", console=console, disable=not console.is_terminal, transient=True):
            pair = [nets.parse(text, settings.phase) for text in net_text(case, Path(folder))]
            if not results:
                nets.rehearse(functools.partial(compare.one_pass, pair, settings, 1), f"--device {settings.device}")
            results.setdefault(case.pair, []).append((case, compare.compare(pair, settings)))
    return [_row(name, found) for name, found in results.items()]


def _row(name, found):
    rows = [row for _, result in found for row in result["rows"]]
    losses, gradients = ([row for row in rows if row["what"] == what] for what in ("loss", "gradient"))
    times = {net: sum(sum(result["times_ms"][net].values()) for _, result in found) for net in "ab"}
    return {
        "pair": name,
        "layer": PAIRS[name].layer,
        "twin": PAIRS[name].builtin,
        "cases": len(found),
        "loss": compare.worst(losses, "relative"),
        "gradient": compare.worst(gradients, "relative"),
        "float64_python": compare.worst(rows, "float64_a"),
        "float64_builtin": compare.worst(rows, "float64_b"),
        "times_ms": times,
        "time_ratio": times["a"] / times["b"],
        "within_tolerance": all(result["within_tolerance"] for _, result in found),
        "failed": [
            {"shape": case.shape, "options": case.options} for case, result in found if not result["within_tolerance"]
        ],
        "errors": np.sum([row["errors"] for row in rows], axis=0).tolist(),
    }


def _print(rows, settings):
    show = compare.shown
    output.print_table(
        "Each layer against its built-in twin",
        ["Python layer", "twin", "cases", "loss", "grad.", "Python", "Caffe", "time"],
        [
            [
                row["layer"],
                row["twin"],
                str(row["cases"]),
                *(show(row[key]) for key in ("loss", "gradient", "float64_python", "float64_builtin")),
                f"{row['time_ratio']:.2f}",
            ]
            for row in rows
        ],
        caption="loss, grad.: largest relative difference from the twin, over all cases,\n"
        f"each at loss weights × {', '.join(f'{factor:g}' for factor in settings.loss_weights)}\n"
        "Python, Caffe: the same of each from float64\n"
        "time: all forward and backward passes, Python ÷ Caffe",
        left=2,
    )
    for row in rows:
        for failed in row["failed"]:
            options = {key: value for key, value in failed["options"].items() if key != "class_weights"}
            print(f"NOT within {settings.tolerance:g}: {row['layer']}, shape {failed['shape']}, {options}")
    if all(row["within_tolerance"] for row in rows):
        print(f"all {sum(row['cases'] for row in rows)} cases within {settings.tolerance:g}")
