"""What the commands share for their results: tables, files that appear whole, pictures, facts about the machine."""

import contextlib
import datetime
import json
import math
import os
import platform
import sys
from pathlib import Path

from pylayers.errors import UserError
from pylayers.runtime.optional import need

BLAS_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextlib.contextmanager
def whole_file(path):
    """A file that appears whole or not at all, and that is known to be writable before the work starts.

    Args:
        path: where the file is to be; None for no file.

    Yields:
        The path to write to: one beside `path`, renamed to it when the block ends well. A device or a pipe is
        written to as it is. None for None.

    Raises:
        UserError: the file cannot be written.
    """
    if path is None:
        yield None
        return
    final = Path(path)
    if final.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    if final.exists() and not final.is_file():
        with _written_as(path, final):
            yield final
        return
    final = final.resolve()  # a link stays a link
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        temporary.touch()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    try:
        with _written_as(path, temporary):
            yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _written_as(path, written):
    """Turns the OSError that `named_errors` has given the path `written` into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename != str(written):
            raise
        raise UserError(f"cannot write {path}: {error.strerror}") from None


@contextlib.contextmanager
def named_errors(path):
    """Puts a file's path into the OSError of a write to it, as of a full disk: Python tells it of an open alone."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@contextlib.contextmanager
def result_files(options):
    """Checks that a command can write its ``--json`` and ``--plot``, before its work starts.

    Args:
        options: the command's parsed arguments.

    Yields:
        The paths to write JSON and the picture to, as from `whole_file`.

    Raises:
        UserError: a package is missing, or a file cannot be written.
    """
    if options.plot:
        pyplot()
    with whole_file(options.json) as json_file, whole_file(options.plot) as plot_file:
        yield json_file, plot_file


def write_json(path, result):
    """Writes a result as JSON, numbers that JSON lacks (NaN, infinity) as null; does nothing where `path` is None."""
    if path is not None:
        with named_errors(path):
            path.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


WIDTH = 100  # of tables, in columns of a terminal
_GAP = 2  # between two columns of a table


def print_table(title, columns, rows, caption="", left=1):
    """Prints a table, its first `left` columns justified to the left, the others to the right.

    Lines end where their text ends, and have at most `WIDTH` columns: a long cell in the first column goes on in the
    next line, and columns for which there is no room follow below, beside the left ones once more.
    """
    from rich.cells import cell_len  # the columns of a terminal that a text takes

    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows)]
    room = WIDTH - _total(widths[1:]) - _GAP - 1
    widths[0] = min(widths[0], max(room, 20))
    lines = [title]
    for indices in _blocks(widths, left):
        block = [[line[index] for index in indices] for line in (columns, *rows)]
        lines += _table(block, [widths[index] for index in indices], left)
    print("\n".join(line.rstrip() for line in [*lines, "", *caption.splitlines()]))


def _total(widths):
    """The columns of a terminal that a row takes, without the one before it."""
    return sum(widths) + _GAP * (len(widths) - 1)


def _blocks(widths, left):
    """The indices of the columns that are printed beside each other: the left ones, and some of the others."""
    names, others = list(range(left)), list(range(left, len(widths)))
    while others:
        block = [*names, others.pop(0)]
        while others and 1 + _total([widths[index] for index in [*block, others[0]]]) <= WIDTH:
            block.append(others.pop(0))
        yield block


def _table(block, widths, left):
    """The lines of a table, from the columns' titles and the rows."""
    from rich.cells import cell_len, chop_cells

    def line(cells):
        padded = []
        for index, (cell, width) in enumerate(zip(cells, widths)):
            space = " " * (width - cell_len(cell))
            padded.append(cell + space if index < left else space + cell)
        return " " + (" " * _GAP).join(padded)

    columns, *rows = block
    yield from ("", line(columns), " " + "─" * _total(widths))
    for first, *others in rows:
        pieces = chop_cells(first, widths[0]) or [""]
        yield line([pieces[0], *others])
        yield from (f"   {piece}" for piece in pieces[1:])


def unwritten():
    """Writes out what has been printed to stdout.

    Returns:
        None, or why stdout cannot be written, as where it goes to a file on a full disk.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try once more at its end, and print a traceback.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"cannot write to stdout: {error.strerror}"
    return None


def pyplot():
    """Imports pyplot, drawing to files alone.

    Raises:
        UserError: matplotlib is not installed.
    """
    need("matplotlib", "plot").use("Agg")
    return need("matplotlib.pyplot", "plot")


def machine():
    """What a measurement depends on: the machine, the versions, the threads; a dict for JSON."""
    # Imported here and not above: `pylayers doctor` uses this module where these cannot be imported.
    import caffe
    import numpy as np

    from pylayers.runtime import loops
    from pylayers.runtime.tiles import thread_count

    return {
        "kind": f"{platform.machine()}-{os.cpu_count()}cores",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": thread_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "loops": "numba" if loops.enabled() else "numpy",
        "caffe": caffe.__version__,
        "blas_threads": {name: os.environ.get(name) for name in BLAS_THREADS},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_model():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
