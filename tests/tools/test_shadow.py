"""A module of the user's own that is called pylayers crashes no command: which file shadows which, and what to do."""

import os
import subprocess
import sys

from harness import KIT
from harness.doctor_nets import DATA, PRED, python

from pylayers.caffe_nets import kit

COMMAND = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pylayers_command", "{KIT}/pylayers_command.py")
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


def run(*arguments, path, folder=KIT):
    """The command as it is installed, with a module path as PYTHONPATH makes it."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)


def test_a_command_says_so_and_runs_with_the_kit(tmp_path):
    shadow = tmp_path / "pylayers.py"
    shadow.write_text(OWN)
    arguments = ("check-gradient", "pylayers:EuclideanLossLayer", "--bottom", "3,4", "--bottom", "3,4")
    done = run(*arguments, path=[tmp_path], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ok     bottom[0]" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"pylayers check-gradient: {shadow} comes before the kit, {KIT}/pylayers, on Python's path")
    assert line.endswith(f"write: another name for {shadow}, or take {tmp_path} off PYTHONPATH")


def test_doctor_says_so_and_what_it_means_for_the_net(tmp_path):
    """One layer is meant to be the kit's and is not found; the other is found."""
    (tmp_path / "pylayers.py").write_text(OWN)
    losses = python("MyLossLayer") + python("EuclideanLossLayer", name="other")
    (tmp_path / "net.prototxt").write_text(DATA + PRED + losses)
    done = run("doctor", "net.prototxt", path=[tmp_path, KIT], folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    _, warning, write, error, *rest = done.stdout.splitlines()
    place = tmp_path / "pylayers.py"
    assert warning.startswith(f"warning: {place} comes before the kit, {KIT}/pylayers, on Python's path")
    assert warning.endswith("[kit-shadowed]")
    assert write == f"    write: another name for {place}, or take {tmp_path} off PYTHONPATH"
    found = "the module pylayers has no EuclideanLossLayer; it is"
    assert error.endswith(f'layer "other": {found} {place}, which comes before the kit [layer-class]')
    assert rest[-1] == "1 error, 1 warning"


def test_a_folder_shadows_the_kit_too(tmp_path, monkeypatch):
    """One without an __init__.py comes before a package that pip install -e has made known."""
    (tmp_path / "pylayers").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert kit.shadow() == str(tmp_path / "pylayers")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(KIT)])
    assert kit.shadow() is None
