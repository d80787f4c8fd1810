"""Ctrl-C in a loss: the user sees it, nothing hangs, and the next result is right to the last bit."""

import json
import subprocess
import sys

import pytest
from harness import ROOT

COUNT = 300


@pytest.mark.parametrize("by", ["numba", "formula"])
@pytest.mark.parametrize("loss", ["softmax", "euclidean"])
def test_interrupts_are_seen_and_leave_nothing_wrong(loss, by):
    if by == "numba":
        pytest.importorskip("numba", reason="Numba is not installed")
    command = [sys.executable, "tests/harness/interrupts.py", loss, str(COUNT), *["--no-numba"] * (by == "formula")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert (found["sent"], found["seen"]) == (COUNT, COUNT)
    assert (found["other exceptions"], found["wrong"]) == (0, 0)
