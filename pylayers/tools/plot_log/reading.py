"""Reads what Caffe's solver logs: each number with its run and iteration, and the parts of a resumed run joined."""

import math
import re
import sys
from pathlib import Path
from typing import NamedTuple, Optional

STDIN = "-"

_START = re.compile(r"\] Initializing solver from parameters")
_DONE = re.compile(r"\] Optimization Done\.")
_ANY_ITERATION = re.compile(r"\] Iteration (\S+)(.*)")
_LOSS = re.compile(r"(?: \(.*\))?, loss = (\S+)$")
_RATE = re.compile(r", lr = (\S+)$")
_TESTING = re.compile(r", Testing net \(#(\d+)\)$")
_OUTPUT = re.compile(r"\] +(Train|Test) net output #(\d+): (\S+) = (\S+)(?: \(\* (\S+) = \S+ loss\))?$")
_NUMBER = re.compile(r"-?(\d[\d.]*|\.\d+)(e[+-]?\d+)?")


class Record(NamedTuple):
    """One number of a log."""

    run: int  # from 0; a file may hold several runs
    iteration: int
    phase: str  # "train" or "test"
    net: int  # the number of the test net; 0 for the train net
    output: str  # the top's name, with its place in the blob where that has several elements, such as prob[3]
    value: float
    weight: Optional[float]  # the loss weight of a loss; None for any other output
    log: str  # the log's file


class Log(NamedTuple):
    """What a file holds.

    Attributes:
        records: a list of `Record` in the order of the file.
        done: the numbers of the runs that came to their end.
        unread: the numbers, from 1, of lines of the solver's that could not be read.
    """

    records: list
    done: set
    unread: list


class Resumed(NamedTuple):
    """A run that goes on where another one was cut off: where it was found, and its first iteration."""

    log: str
    iteration: int


def read_log(path):
    """Reads the log of `caffe train`, or of a solver in pycaffe.

    Beside the outputs of the nets it finds ``smoothed_loss``, the mean over average_loss iterations that Caffe prints
    in the iteration's own line, and ``lr``. Lines of other kinds are passed over, and so is a last line without an
    end: a run that is still going on, or was cut off, may have written half a number.

    Args:
        path: the file's path; "-" for stdin.

    Returns:
        A `Log`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no iteration of a solver.
    """
    data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    # PowerShell writes UTF-16 when it redirects.
    utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if utf16 else "utf-8", errors="replace")
    name = "stdin" if path == STDIN else str(path)
    reader = _Reader(name)
    for number, line in enumerate(text[: text.rfind("\n") + 1].split("\n"), 1):
        reader.read(number, line.rstrip("\r"))
    if not reader.records:
        if not data.strip():
            raise ValueError(f"{name} is empty; caffe train writes its log to stderr: caffe train ... 2> caffe.log")
        raise ValueError(
            f"{name} is no log of Caffe's solver: it holds no line such as 'I1122 14:13:54.290 4736 solver.cpp:239] "
            "Iteration 0, loss = 2.3'"
        )
    _number_elements(reader.records, reader.places)
    return Log(reader.records, reader.done, reader.unread)


class _Reader:
    """Reads a log line by line, and keeps the iteration that the next outputs belong to."""

    def __init__(self, name):
        self.name = name
        self.records, self.places, self.done, self.unread = [], [], set(), []
        self.run, self.iteration, self.testing = -1, None, None

    def read(self, number, line):
        if _START.search(line):
            self.run, self.iteration, self.testing = self.run + 1, None, None
        elif _DONE.search(line):
            self.done.add(max(self.run, 0))
        elif match := _ANY_ITERATION.search(line):
            self._read_iteration(number, *match.groups())
        elif match := _OUTPUT.search(line):
            self._read_output(number, *match.groups())

    def _read_iteration(self, number, iteration, rest):
        iteration = iteration.removesuffix(",")
        rest = rest if rest.startswith((",", " (")) else f",{rest}"
        # Where the line cannot be read, the outputs that follow must not go to the iteration before.
        at = int(iteration) if iteration.isdecimal() else None
        if "Testing net" in rest:
            match = _TESTING.match(rest)
            self.testing = (at, int(match[1])) if match and at is not None else None
            readable = self.testing is not None
        elif match := _RATE.match(rest):
            readable = self._add(at, "train", 0, "lr", match[1])
        else:
            self.iteration = at
            match = _LOSS.match(rest)
            # Lines of other kinds, such as a fork's, are none of the solver's that this knows.
            readable = "loss =" not in rest or (match and self._add(at, "train", 0, "smoothed_loss", match[1]))
        if not readable:
            self.unread.append(number)

    def _read_output(self, number, phase, index, output, value, weight):
        phase = phase.lower()
        at = (self.iteration, 0) if phase == "train" else self.testing
        if at is None or at[0] is None:  # the file begins in the middle of a run, or the iteration could not be read
            return
        if self._add(at[0], phase, at[1], output, value, weight):
            self.places.append((len(self.records) - 1, int(index)))
        else:
            self.unread.append(number)

    def _add(self, iteration, phase, net, output, value, weight=None):
        """Adds a record; False where a number cannot be read."""
        numbers = [_number(text) for text in (value, weight) if text is not None]
        if iteration is None or None in numbers:
            return False
        value, weight = (*numbers, None)[:2]
        self.records.append(Record(max(self.run, 0), iteration, phase, net, output, value, weight, self.name))
        return True


def _number(text):
    """A number as C++ prints it, on Windows too; None for anything else."""
    if _NUMBER.fullmatch(text):
        try:
            return float(text)
        except ValueError:
            return None
    word = text.lower()
    if re.fullmatch(r"-?(inf(inity)?|1\.#inf)", word):
        return -math.inf if word.startswith("-") else math.inf
    return math.nan if re.fullmatch(r"-?(nan(\(\w+\))?|1\.#(qnan|snan|ind))", word) else None


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


def join(logs):
    """Joins each run that was resumed to its first part, which is the run before it, in the same log or the one before.

    A run goes on with the one before where it does not begin at iteration 0, begins no later than that one would have
    logged next, and has an output in common with it, if both have any. Where it begins before the other's last
    iteration, the other must not have come to its end. What was logged of iterations that were run again is left out,
    since it was lost.

    Args:
        logs: a list of `Log`.

    Returns:
        A list of `Record`, and a list of `Resumed`. The records of a run that goes on have the log and the run of its
        first part; the runs of each log are counted from 0.
    """
    runs, resumed = [], []  # runs: pairs of a list of records, and whether it came to its end
    for log in logs:
        for number in sorted({record.run for record in log.records}):
            part = [record for record in log.records if record.run == number]
            if runs and _goes_on(*runs[-1], part):
                start = min(record.iteration for record in part)
                resumed.append(Resumed(part[0].log, start))
                part = [record for record in runs.pop()[0] if record.iteration < start] + part
            runs.append((part, number in log.done))
    counts, records = {}, []
    for part, _ in runs:
        log = part[0].log
        number = counts[log] = counts.get(log, -1) + 1
        records.extend(record._replace(log=log, run=number) for record in part)
    return records, resumed


def _goes_on(before, done, part):
    steps = [sorted({record.iteration for record in records}) for records in (before, part)]
    last, start = steps[0][-1], steps[1][0]
    # Logged at every display-th iteration, which is the longest step in either.
    step = max((b - a for each in steps for a, b in zip(each, each[1:])), default=0)
    a, b = ({record.output for record in records} - {"smoothed_loss", "lr"} for records in (before, part))
    return 0 < start <= last + step and (start >= last or not done) and bool(a & b or not a or not b)
