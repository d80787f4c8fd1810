"""What the commands share for their results: tables, files that appear whole, pictures, facts about the machine."""

import contextlib
import datetime
import json
import math
import os
import platform
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
        yield final
        return
    final = final.resolve()  # a link stays a link
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        temporary.touch()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


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
        path.write_text(json.dumps(_finite(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title, columns, rows, caption="", left=1):
    """Prints a table, its first `left` columns justified to the left, the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Wide enough that rich cuts off no row; the terminal wraps one that is too long for it.
    console = Console(width=max(Console().width, 200))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as plain text, since a name may hold what rich takes for markup
    console.print(Text(title))
    console.print(table)
    if caption:
        console.print(Text(caption))


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
