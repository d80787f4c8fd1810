"""`pylayers plot-log`: what Caffe's solver logs, drawn or written as CSV."""

import csv
import re
from pathlib import Path
from typing import NamedTuple, Optional

from pylayers.errors import UserError
from pylayers.tools import arguments, report

HELP = "draw what Caffe's solver logs, or write it as CSV"
EXAMPLE = """\
example:
  pylayers plot-log caffe.log -o curves.png --csv caffe.csv"""

_NUMBER = r"(-?(?:nan|inf|[\d.]+(?:e[+-]?\d+)?))"
_START = re.compile(r"\] Initializing solver from parameters")
_ITERATION = re.compile(rf"\] Iteration (\d+)(?: \(.*\))?, loss = {_NUMBER}$")
_TESTING = re.compile(r"\] Iteration (\d+), Testing net \(#(\d+)\)$")
_OUTPUT = re.compile(rf"\] +(Train|Test) net output #(\d+): (\S+) = {_NUMBER}(?: \(\* {_NUMBER} = {_NUMBER} loss\))?$")
_RATE = re.compile(rf"\] Iteration (\d+), lr = {_NUMBER}$")


class Record(NamedTuple):
    """One number of a log."""

    run: int  # from 0; a file may hold several runs
    iteration: int
    phase: str  # "train" or "test"
    net: int  # the number of the test net; 0 for the train net
    output: str  # the top's name, with its place in the blob where that has several elements, such as prob[3]
    value: float
    weight: Optional[float]  # the loss weight of a loss; None for any other output


def read_log(path):
    """Reads a file with the log of `caffe train`, or of a solver in pycaffe.

    Beside the outputs of the nets it finds ``smoothed_loss``, the mean over average_loss iterations that Caffe prints
    in the iteration's own line, and ``lr``. Lines of other kinds are passed over, and so is a last line without an
    end: a run that is still going on, or was cut off, may have written half a number.

    Returns:
        A list of `Record` in the order of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no iteration of a solver.
    """
    records, places = [], []
    run, iteration, testing = -1, None, None
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    for line in text[: text.rfind("\n") + 1].splitlines():
        if _START.search(line):
            run, iteration, testing = run + 1, None, None
        elif match := _TESTING.search(line):
            testing = int(match[1]), int(match[2])
        elif match := _ITERATION.search(line):
            iteration = int(match[1])
            records.append(Record(max(run, 0), iteration, "train", 0, "smoothed_loss", float(match[2]), None))
        elif match := _RATE.search(line):
            records.append(Record(max(run, 0), int(match[1]), "train", 0, "lr", float(match[2]), None))
        elif match := _OUTPUT.search(line):
            phase = match[1].lower()
            at = (iteration, 0) if phase == "train" else testing
            if at is None or at[0] is None:  # the file begins in the middle of a run
                continue
            weight = None if match[5] is None else float(match[5])
            records.append(Record(max(run, 0), at[0], phase, at[1], match[3], float(match[4]), weight))
            places.append((len(records) - 1, int(match[2])))
    if not records:
        raise ValueError(f"{path} holds no iteration of a Caffe solver, such as 'Iteration 0, loss = 2.3'")
    _number_elements(records, places)
    return records


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("log", metavar="LOG", help="what caffe train wrote to stderr")
    parser.add_argument("-o", "--output", type=arguments.png, metavar="FILE.png", help="the curves")
    parser.add_argument("--csv", metavar="FILE", help="all numbers, one a row")


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status, 0.

    Raises:
        OSError: the log cannot be read.
        UserError: it holds no iteration, or an output cannot be written.
    """
    if not options.output and not options.csv:
        raise UserError("give -o FILE.png or --csv FILE, or both")
    try:
        records = read_log(options.log)
    except ValueError as error:
        raise UserError(str(error)) from None
    with report.whole_file(options.output) as picture, report.whole_file(options.csv) as table:
        if table:
            write_csv(records, table)
        if picture:
            plot(records, picture)
    return 0


def write_csv(records, path):
    """Writes the records, one a row below a header with the names of `Record`'s fields."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Record._fields)
        writer.writerows(records)


def plot(records, path):
    """Draws the losses (log scale where all are positive), and below them the other outputs; not the learning rate.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to draw.
    """
    plt = report.pyplot()

    losses = [record for record in records if record.weight is not None or record.output == "smoothed_loss"]
    others = [record for record in records if record.weight is None and record.output not in ("smoothed_loss", "lr")]
    panels = [(title, part) for title, part in (("loss", losses), ("other outputs", others)) if part]
    if not panels:
        raise UserError("the log holds nothing to draw but the learning rate; --csv writes that")
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 3.5 * len(panels)), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (title, part) in zip(axes[:, 0], panels):
        for label, (iterations, values) in _curves(part).items():
            axis.plot(iterations, values, label=label, linewidth=1, marker="." if len(values) < 30 else None)
        axis.set_ylabel(title)
        axis.legend(fontsize="small")
        if title == "loss" and all(record.value > 0 for record in part):
            axis.set_yscale("log")
    axes[-1, 0].set_xlabel("iteration")
    figure.savefig(path, dpi=120, format="png")
    plt.close(figure)


def _curves(records):
    """Dict from a curve's label to its iterations and values."""
    several = len({record.run for record in records}) > 1
    curves = {}
    for record in records:
        label = f"{record.phase} {record.output}" + (f" (* {record.weight:g})" if record.weight is not None else "")
        label += f", net {record.net}" if record.net else ""
        label += f", run {record.run}" if several else ""
        iterations, values = curves.setdefault(label, ([], []))
        iterations.append(record.iteration)
        values.append(record.value)
    return curves


def _number_elements(records, places):
    """Numbers the elements of a blob, which Caffe prints as outputs #3, #4, ... of one name.

    Args:
        records: changed in place.
        places: pairs of the index of an output's record and the number that Caffe printed for it.
    """
    groups = {}
    for index, number in places:
        groups.setdefault(records[index][:5], []).append((index, number))
    for group in groups.values():
        first = min(number for _, number in group)
        if any(number != first for _, number in group):
            for index, number in group:
                records[index] = records[index]._replace(output=f"{records[index].output}[{number - first}]")
