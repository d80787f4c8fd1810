"""Writes summary.md, a page of what `run_wheel.sh` has found, and ends with status 1 where a step has failed.

The steps are in steps.txt, a line each: name, status, seconds, the last line of the log.
"""

import re
import sys
from pathlib import Path

INTERRUPTED = ("124", "137")  # the statuses of timeout
FINE = ("0", "-")


def main(folder):
    """Reads what is there, writes the page, and says how many steps have failed."""
    steps = [line.split(" ", 3) for line in (folder / "steps.txt").read_text().splitlines()]
    failed = [name for name, status, _, _ in steps if status not in FINE]
    page = [
        "# The kit on a GPU",
        *_text(_machine(folder)),
        "",
        "| step | result | seconds | last line |",
        "|---|---|---|---|",
    ]
    page += [f"| {name} | {_result(status)} | {seconds} | {_cell(said)} |" for name, status, seconds, said in steps]
    for name in failed:
        page += ["", f"## {name}", *_text(_failures(folder / f"{name}.log"))]
    if (folder / "bench.log").is_file():
        page += ["", "## Benchmark", *_text((folder / "bench.log").read_text(errors="replace").splitlines())]
    (folder / "summary.md").write_text("\n".join(page) + "\n")
    print(f"==> {len(steps) - len(failed)} of {len(steps)} steps without a failure; {folder / 'summary.md'} has all")
    return int(bool(failed))


def _text(lines):
    return ["", "```text", *lines, "```"]


def _machine(folder):
    first, *lines = (folder / "machine.txt").read_text().splitlines()
    return [first, *(line for line in lines if re.search(r"NVIDIA-SMI|NVIDIA [A-Z]|^Python|^cupy|^Version: ", line))]


def _result(status):
    return {"0": "passed", "-": "not run"}.get(status, "too slow" if status in INTERRUPTED else f"failed ({status})")


def _cell(text):
    return text.strip("= ").replace("|", "/")[:120]


def _failures(log):
    """What pytest says of each failure, or the end of the log."""
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if re.match(r"(FAILED|ERROR|E  )", line)][:40] or lines[-15:]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
