"""`pylayers compare --all`: compares each layer of the kit with its built-in twins, over shapes and options.

Each case is judged by its difference from the twin. The two columns against float64 tell whose error that is. Where
Caffe's layers cannot compute the loss, float64 takes the twin's place.
"""

import tempfile
from pathlib import Path

import numpy as np

from pylayers.caffe_nets import child, read
from pylayers.runtime.progress import progress_bar
from pylayers.tools import report
from pylayers.tools.compare import two_nets
from pylayers.tools.twins import PAIRS, net_text


def cases():
    """All cases, a list of `Case`."""
    return [case for pair in PAIRS.values() for case in pair.compared]


def run(options, settings):
    """Runs the command for all layers.

    Args:
        options: the parsed arguments.
        settings: `pylayers.tools.compare.Settings`.

    Returns:
        The exit status: 0 within the tolerance, 1 not.

    Raises:
        UserError: an output cannot be written, or the device cannot be used.
    """
    with report.result_files(options) as (json_file, plot_file):
        rows = compare_all(cases(), settings)
        good = all(row["within_tolerance"] for row in rows)
        result = {**settings._asdict(), "within_tolerance": good, "rows": rows, "machine": report.machine()}
        _print(rows, settings)
        report.write_json(json_file, result)
        if plot_file:
            errors = {f"{row['layer']}, {row['twin']}": row["errors"] for row in rows if row["twin"]}
            times = {f"{row['layer']}\n{row['twin']}": list(row["times_ms"].values()) for row in rows if row["twin"]}
            two_nets.plot(plot_file, ("Python", "Caffe"), errors, times)
    return 0 if good else 1


def compare_all(grid, settings):
    """Compares every case.

    Args:
        grid: a list of `Case`.
        settings: `pylayers.tools.compare.Settings`.

    Returns:
        A list with one dict for each pair that occurs in the grid. ``times_ms`` holds the sums over the cases.
    """
    results = {}
    with tempfile.TemporaryDirectory() as folder, progress_bar("comparing", len(grid)) as advance:
        for case in grid:
            own, builtin = net_text(case, Path(folder))
            texts = own, builtin or own
            if not results:
                name = f"--device {settings.device}"
                child.call(two_nets.try_out, texts, (name, name), settings, name=name)
            pair = [read.parse(text, settings.phase) for text in texts]
            result = two_nets.compare(pair, settings)
            if builtin is None:
                _judge_by_float64(result, settings)
            results.setdefault(case.pair, []).append((case, result))
            advance()
    return [_row(name, found) for name, found in results.items()]


def _judge_by_float64(result, settings):
    """Takes float64 for the twin, in the result of a net that was compared with itself."""
    for row in result["rows"]:
        row["relative"], row["float64_b"] = row["float64_a"], None
    within = [row["relative"] is not None and row["relative"] <= settings.tolerance for row in result["rows"]]
    result["within_tolerance"] = all(within)
    result["times_ms"]["b"] = None


def _row(name, found):
    rows = [row for _, result in found for row in result["rows"]]
    losses, gradients = ([row for row in rows if row["what"] == what] for what in ("loss", "gradient"))
    has_twin = PAIRS[name].builtin is not None
    times = {net: sum(sum(result["times_ms"][net].values()) for _, result in found) for net in "ab"[: 1 + has_twin]}
    return {
        "pair": name,
        "layer": PAIRS[name].layer,
        "twin": PAIRS[name].builtin,
        "cases": len(found),
        "loss": two_nets.worst(losses, "relative"),
        "gradient": two_nets.worst(gradients, "relative"),
        "float64_python": two_nets.worst(rows, "float64_a"),
        "float64_builtin": two_nets.worst(rows, "float64_b"),
        "times_ms": times,
        "time_ratio": times["a"] / times["b"] if has_twin else None,
        "within_tolerance": all(result["within_tolerance"] for _, result in found),
        "failed": [
            {"shape": case.shape, "options": case.options} for case, result in found if not result["within_tolerance"]
        ],
        "errors": np.sum([row["errors"] for row in rows], axis=0).tolist(),
    }


def _four_places(ratio):
    """A ratio in a column of four places, so that the table is as wide on a busy machine."""
    return (
        "–"
        if ratio is None
        else f"{ratio:.2f}"
        if ratio < 9.995
        else f"{ratio:.1f}"
        if ratio < 99.95
        else f"{ratio:.0f}"
    )


def _print(rows, settings):
    show = two_nets.shown
    report.print_table(
        "Each layer against its built-in twin",
        ["Python layer", "twin", "cases", "loss", "grad.", "Python", "Caffe", "time"],
        [
            [
                row["layer"],
                row["twin"] or "float64",
                str(row["cases"]),
                *(show(row[key]) for key in ("loss", "gradient", "float64_python", "float64_builtin")),
                _four_places(row["time_ratio"]),
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
