"""Draws the numbers of logs, or writes them as CSV."""

import csv
import math
from pathlib import Path

from pylayers.errors import UserError
from pylayers.tools import report
from pylayers.tools.plot_log.reading import Record

# Caffe prints six digits.
_PRINTED = 1e-5


def write_csv(records, path):
    """Writes the records, one a row below a header with the names of `Record`'s fields."""
    with report.named_errors(path), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Record._fields)
        writer.writerows(records)


def plot(records, path, kind="png"):
    """Draws the losses (log scale where all are positive), and below them the other outputs; not the learning rate.

    The smoothed loss is drawn where it is none of the losses: with ``average_loss: 1``, Caffe's default, and one loss
    the two are equal.

    Args:
        records: a list of `Record`.
        path: the picture's file.
        kind: "png", "svg" or "pdf".

    Returns:
        The number of curves.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to draw.
    """
    plt = report.pyplot()
    drawn = _without_equal_smoothed(records)
    losses = [record for record in drawn if record.weight is not None or record.output == "smoothed_loss"]
    others = [record for record in drawn if record.weight is None and record.output not in ("smoothed_loss", "lr")]
    panels = [(title, part) for title, part in (("loss", losses), ("other outputs", others)) if part]
    if not panels:
        raise UserError("the log holds nothing to draw but the learning rate; --csv writes that")
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 3.5 * len(panels)), sharex=True, squeeze=False, layout="constrained"
    )
    count = 0
    for axis, (title, part) in zip(axes[:, 0], panels):
        for label, (iterations, values) in curves(part).items():
            axis.plot(iterations, values, label=label, linewidth=1, marker="." if len(values) < 30 else None)
            count += 1
        axis.set_ylabel(title)
        axis.legend(fontsize="small")
        if title == "loss" and all(record.value > 0 for record in part):
            axis.set_yscale("log")
    axes[-1, 0].set_xlabel("iteration")
    with report.named_errors(path):
        figure.savefig(path, dpi=120, format=kind)
    plt.close(figure)
    return count


def curves(records):
    """A dict from a curve's label to its iterations and values."""
    names = _short_names({record.log: None for record in records})
    runs = {name: {record.run for record in records if record.log == name} for name in names}
    found = {}
    for record in records:
        label = f"{names[record.log]}: " if len(names) > 1 else ""
        label += f"{record.phase} {record.output}" + (f" (* {record.weight:g})" if record.weight is not None else "")
        label += f", net {record.net}" if record.net else ""
        label += f", run {record.run}" if len(runs[record.log]) > 1 else ""
        iterations, values = found.setdefault(label, ([], []))
        iterations.append(record.iteration)
        values.append(record.value)
    return found


def _short_names(logs):
    """A dict from each log to its file's name, or to its path where two files have one name."""
    names = [Path(log).name for log in logs]
    return {log: name if names.count(name) == 1 else log for log, name in zip(logs, names)}


def _without_equal_smoothed(records):
    """The records without the smoothed loss of runs where it is equal to a loss of the train net."""
    by_run = {}
    for record in records:
        if record.phase == "train":
            outputs = by_run.setdefault((record.log, record.run), {})
            outputs.setdefault((record.output, record.weight), {})[record.iteration] = record.value
    equal = set()
    for run, outputs in by_run.items():
        smoothed = outputs.get(("smoothed_loss", None), {})
        losses = [values for (_, weight), values in outputs.items() if weight is not None]
        if smoothed and any(_same(smoothed, values) for values in losses):
            equal.add(run)
    return [record for record in records if record.output != "smoothed_loss" or (record.log, record.run) not in equal]


def _same(smoothed, values):
    return smoothed.keys() <= values.keys() and all(
        math.isclose(value, values[at], rel_tol=_PRINTED) or (math.isnan(value) and math.isnan(values[at]))
        for at, value in smoothed.items()
    )
