"""The `caffe` command, as users call it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness import ROOT

BESIDE_PYTHON = Path(sys.prefix) / "bin/caffe"
CAFFE = str(BESIDE_PYTHON) if BESIDE_PYTHON.exists() else shutil.which("caffe")
SOLVER = """net: "{net}"
base_lr: 0.0001 lr_policy: "fixed" max_iter: 10 display: 1 random_seed: 1 snapshot_after_train: false
"""


def train(net, folder, **options):
    """Runs ten iterations of `caffe train`."""
    solver = folder / "solver.prototxt"
    solver.write_text(SOLVER.format(net=net))
    command = [CAFFE, "train", f"--solver={solver}"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, **{"cwd": ROOT, "env": environment(), **options}
    )


def environment():
    """This process's environment, with Caffe's log switched on."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GLOG_")}


def losses(done):
    assert done.returncode == 0, done.stderr
    return [float(loss) for loss in re.findall(r"Iteration \d+ .*, loss = (\S+)", done.stderr)]
