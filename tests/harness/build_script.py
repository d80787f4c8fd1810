"""docker/build_caffe.sh, as the tests call it."""

import os
import subprocess

from harness import ROOT

SCRIPT = ROOT / "docker/build_caffe.sh"


def build(*options, script=SCRIPT, **environment):
    command = ["bash", str(script), *map(str, options)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


def assert_fails(done, message):
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"build_caffe.sh: error: {message}"
