"""run_wheel.sh, rehearsed without a GPU: steps, limits, logs and the page are real, and what they call is not."""

import os
import subprocess
import sys

import pytest
from harness import ROOT

# Stands for Python: steps that pass, fail, hang and end by a signal.
PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  *summary.py*) exec {python} "$@" ;;
  *--target*)
    info="${{@: -2:1}}/bvlc_caffe-1.dist-info"
    mkdir -p "$info" && echo "Version: 1+cu13" >"$info/METADATA"
    ;;
  *pytest_timeout*) exit 1 ;;
  *test_smoke*) echo "===== 20 passed in 1.00s =====" ;;
  *bench*) echo "the table" ;;
  *gpu_parity.py\ -k\ 2_gib)
    trap 'echo "interrupted: 3 passed" && exit 2' INT
    for i in {{1..300}}; do sleep 0.1; done
    ;;
  *gpu_parity*) echo "FAILED tests/gpu/test_gpu_parity.py::test_x - assert 1 == 2" && exit 1 ;;
  *"tests/losses"*) kill -SEGV $$ ;;
  *) echo "done" ;;
esac
"""
SANITIZER = '#!/bin/sh\necho "ERROR SUMMARY: 0 errors"\n'


@pytest.fixture
def run(tmp_path):
    """A function that runs the script with those stand-ins in at most `limit` seconds; returns the process and OUT."""

    def work(limit, sanitizer=SANITIZER):
        for name, text in {
            "python": PYTHON.format(python=sys.executable),
            "caffe": "#!/bin/sh\n",
            "nvidia-smi": "#!/bin/sh\necho '| NVIDIA-SMI 580'\n",
            "compute-sanitizer": sanitizer,
        }.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (tmp_path / "caffe.whl").touch()
        variables = {"PATH": f"{path.parent}:{os.environ['PATH']}", "PYTHON": "python", "LIMIT": str(limit)}
        command = [ROOT / "tests/gpu/run_wheel.sh", tmp_path / "caffe.whl", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, timeout=60)
        return done, tmp_path / "out"

    return work


def test_each_step_is_on_the_page(run):
    done, out = run(8)
    assert done.returncode == 1, done.stderr
    page = (out / "summary.md").read_text()
    for row in (
        "| smoke | passed | 0 | 20 passed in 1.00s |",
        "| parity | failed (1) | 0 | FAILED tests/gpu/test_gpu_parity.py::test_x - assert 1 == 2 |",
        "| memcheck | passed | 0 | ERROR SUMMARY: 0 errors |",
    ):
        assert row in page
    assert "| losses | failed (139) |" in page
    assert "| large | too slow |" in page
    assert "interrupted: 3 passed" in (out / "large.log").read_text()
    assert "NVIDIA-SMI 580" in page
    assert "the table" in page.partition("## Benchmark")[2]
    assert {path.name for path in out.iterdir()} >= {
        "machine.txt",
        "steps.txt",
        "smoke.log",
        "parity.log",
        "summary.md",
    }


def test_what_there_is_no_time_for_is_said(run):
    done, out = run(4, sanitizer="#!/bin/sh\necho 'Error: Device not supported'; exit 1\n")
    page = (out / "summary.md").read_text()
    assert "| large | not run | - | no time left |" in page
    assert "| sanitizer | not run | - | it does not run here: none: Error: Device not supported |" in page
    assert "steps without a failure" in done.stdout
