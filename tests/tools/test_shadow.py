"""A module of the user's own that is called pylayers crashes no command: which file shadows which, and what to do."""

import os
import subprocess
import sys

import pytest
from harness import ROOT
from harness.doctor_nets import DATA, PRED, python

COMMAND = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pylayers_command", "{ROOT}/pylayers_command.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.exit(module.main())
"""
OWN = """
import caffe
class MyLossLayer(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): top[0].reshape(1)
    def forward(self, bottom, top): pass
    def backward(self, top, propagate_down, bottom): pass
"""


def run(*arguments, path, folder=ROOT):
    """The command as it is installed, with a module path as PYTHONPATH makes it."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-E", "-c", COMMAND, *arguments]
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(params=["file", "folder"])
def shadow(request, tmp_path):
    """What is called pylayers too: a module, or a folder without an __init__.py."""
    if request.param == "file":
        (tmp_path / "pylayers.py").write_text(OWN)
        return tmp_path / "pylayers.py"
    (tmp_path / "pylayers").mkdir()
    return tmp_path / "pylayers"


def test_a_command_says_so_and_runs_with_the_kit(shadow):
    arguments = ("check-gradient", "pylayers:EuclideanLossLayer", "--bottom", "3,4", "--bottom", "3,4")
    done = run(*arguments, path=[shadow.parent])
    assert done.returncode == 0, done.stderr
    assert "ok     bottom[0]" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"pylayers: {shadow} comes before the kit, {ROOT}/pylayers, on Python's path")
    assert line.endswith(f"write: another name for {shadow}, or take {shadow.parent} off PYTHONPATH")


def test_doctor_says_so_where_the_net_means_the_kit(shadow):
    path = [shadow.parent, ROOT / "tests/harness/layers", ROOT]
    if shadow.is_dir():  # a folder without an __init__.py comes last
        path.pop()
    done = run("doctor", "prototxt/euclidean_loss.prototxt", path=path)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"warning: {shadow} comes before the kit" in done.stdout
    assert "[kit-shadowed]" in done.stdout
    found = "the module pylayers has no EuclideanLossLayer; it is"
    assert f"{found} {shadow}, which comes before the kit [layer-class]" in done.stdout


def test_doctor_finds_nothing_else_where_the_net_means_the_other(tmp_path):
    (tmp_path / "pylayers.py").write_text(OWN)
    (tmp_path / "net.prototxt").write_text(DATA + PRED + python("MyLossLayer", more="loss_weight: 1"))
    layers = ROOT / "tests/harness/layers"
    done = run("doctor", "--no-run", "net.prototxt", path=[tmp_path, layers, ROOT], folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith("0 errors, 1 warning\n")
    # Off the path, the kit is found in its place.
    done = run("doctor", "--no-run", "net.prototxt", path=[layers, ROOT], folder=tmp_path)
    assert done.returncode == 1
    assert "the module pylayers has no MyLossLayer; it is the kit, and not the one in ." in done.stdout
    assert 'write: another name for ./pylayers, such as my_layers, and module: "my_layers" with PYTHONPATH=.' in (
        done.stdout
    )
