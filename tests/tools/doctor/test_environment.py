"""Caffe itself, its GPU mode and CuPy."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from caffe._caffe import Blob
from harness import ROOT
from harness.doctor_nets import DATA, PRED, SETTINGS
from harness.doctor_tables import CUPYS, ENVIRONMENTS

from pylayers.caffe_nets.child import Answer
from pylayers.tools import cli
from pylayers.tools.doctor import environment, probe

CUDA = hasattr(Blob, "_gpu_data_ptr")


def run_doctor(*arguments, executable=sys.executable, path=()):
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])}
    command = [executable, "-m", "pylayers", "doctor", *arguments]
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("rule", "files", "found"), ENVIRONMENTS, ids=[rule for rule, _, _ in ENVIRONMENTS])
def test_finds_what_is_wrong_with_caffe(rule, files, found, tmp_path):
    (tmp_path / "caffe").mkdir()
    for name, text in (files if isinstance(files, dict) else {"__init__.py": f"raise {files}"}).items():
        (tmp_path / "caffe" / name).write_text(text)
    done = run_doctor("prototxt/euclidean_loss.prototxt", path=[tmp_path])
    assert (done.returncode, done.stderr) == (1, "")
    first, finding, write, *rest = done.stdout.splitlines()
    assert first.startswith("Python ")
    assert re.fullmatch(rf"error: .*{re.escape(found)}.* \[{rule}\]", finding)
    assert write.startswith(f"    write: take {tmp_path} off PYTHONPATH, if /")
    assert rest[-2:] == [
        "1 error, 0 warnings",
        "pylayers doctor: prototxt/euclidean_loss.prototxt could not be checked: that needs Caffe's Python module",
    ]


def test_another_caffe_first_on_the_path(tmp_path):
    """Both places are named, and what to take off PYTHONPATH."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/caffe.py").write_text("nothing = 1")
    done = run_doctor(path=[tmp_path / "mine"])
    assert (done.returncode, done.stderr) == (1, "")
    assert (
        f"what this Python imports as caffe, {tmp_path}/mine/caffe.py, is not pycaffe; it comes before /" in done.stdout
    )
    assert f"write: take {tmp_path}/mine off PYTHONPATH, if /" in done.stdout


def test_what_lies_beside_caffes_module_is_no_matter(tmp_path):
    """A folder, a link to nothing, a file that may not be read: what is wrong is still said in one line."""
    (tmp_path / "caffe/_caffe_old").mkdir(parents=True)
    (tmp_path / "caffe/_caffe_older.so").mkdir()
    (tmp_path / "caffe/_caffe.so").symlink_to("gone.so")
    (tmp_path / "caffe/__init__.py").write_text("from caffe import _caffe")
    done = run_doctor(path=[tmp_path])
    assert (done.returncode, done.stderr) == (1, "")
    assert "ImportError: cannot import name '_caffe'" in done.stdout
    assert "[caffe-" in done.stdout


def test_a_binary_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "_caffe.so").write_text("")
    monkeypatch.setattr("builtins.open", refuse)
    assert probe._built_for(str(tmp_path / "_caffe.so")) is None


@pytest.mark.usefixtures("quick_children")
@pytest.mark.parametrize("python_layers", [True, False])
def test_a_caffe_that_is_not_located(python_layers, monkeypatch, capsys):
    """The import goes well, and the probe that looks for its files gives no answer."""
    answers = {"locate": Answer(None, "", 1), "environment": environment.ask("environment")}
    answers["environment"].found["python_layers"] = python_layers
    monkeypatch.setattr(environment, "ask", lambda do: answers[do])
    assert cli.main(["doctor"]) == (0 if python_layers else 1)
    assert ("error: this Caffe is built without Python layers" in capsys.readouterr().out) == (not python_layers)


def test_no_caffe_at_all(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    done = run_doctor(executable=tmp_path / "bin/python")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"error: this Python, .*, finds no Caffe.* \[caffe-missing\]", done.stdout)


def test_the_caffe_of_pypi_is_another_project(tmp_path):
    """It is a placeholder without any code: pip install caffe does not bring Caffe."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    (site / "caffe-0.1.0.dist-info").mkdir()
    (site / "caffe-0.1.0.dist-info/METADATA").write_text("Metadata-Version: 2.3\nName: Caffe\nVersion: 0.1.0\n")
    done = run_doctor(executable=tmp_path / "bin/python")
    assert re.search(r"finds no Caffe.*; PyPI's package caffe, which is installed, is another project", done.stdout)


def test_this_caffe_is_right(capsys):
    assert cli.main(["doctor"]) == 0
    numba, hint = (r", Numba \S+", "") if importlib.util.find_spec("numba") else ("", NO_NUMBA)
    versions = rf"Python 3\S+, Caffe \S+, NumPy \S+{numba}, protobuf \S+(, CUDA \d+)?{hint}; Caffe in /"
    assert re.match(versions, capsys.readouterr().out)


NO_NUMBA = ", no Numba, with which the losses are faster on the CPU"


def test_a_numba_that_does_not_compile_is_none(monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert cli.main(["doctor"]) == 0
    assert f"{NO_NUMBA}; Caffe in /" in capsys.readouterr().out


@pytest.mark.usefixtures("quick_children")
def test_a_caffe_without_python_layers(monkeypatch):
    real = {name: environment.ask(name) for name in ("locate", "environment")}
    real["environment"].found["python_layers"] = False
    monkeypatch.setattr(environment, "ask", lambda do: real[do])
    _, (finding,) = environment.check_caffe()
    assert (finding.rule, finding.severity) == ("python-layers", "error")
    assert "WITH_PYTHON_LAYER := 1" in finding.write


# GPU mode.


@pytest.mark.usefixtures("quick_children")
@pytest.mark.skipif(CUDA, reason="this Caffe is built with CUDA")
@pytest.mark.parametrize(
    ("mode", "arguments", "place"),
    [
        ("", [], None),
        ("solver_mode: CPU", [], None),
        ("solver_mode: GPU device_id: 1", [], "solver.prototxt:2: "),
        ("solver_mode: CPU", ["--gpu", "0"], ""),
        ("", ["--gpu", "all"], ""),
    ],
)
def test_gpu_mode_with_a_caffe_for_the_cpu(mode, arguments, place, tmp_path, monkeypatch, capsys):
    """Without --gpu, caffe train goes by a solver_mode that is written down, and not by its default, GPU."""
    monkeypatch.chdir(tmp_path)
    text = DATA + PRED + 'layer { name: "loss" type: "EuclideanLoss" bottom: "pred" bottom: "target" }'
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "solver.prototxt").write_text(f'net: "net.prototxt"\n{mode}\n{SETTINGS}\n')
    assert cli.main(["doctor", "solver.prototxt", *arguments]) == (0 if place is None else 1)
    out = capsys.readouterr().out
    expected = f"\n{place}error: GPU mode, but this Caffe is built for the CPU alone"
    assert (expected in out) == (place is not None)
    assert "cupy" not in out


NO_DEVICE = (
    "F1122 14:13:54.290 47 common.cpp:152] Check failed: error == cudaSuccess (101 vs. 0)  invalid device ordinal"
)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(environment, "ask", lambda do, *arguments: Answer(None, NO_DEVICE, -6))
    (finding,) = environment.check_gpu([7])
    assert (finding.rule, finding.severity) == ("gpu-device", "error")
    assert finding.found == (
        "GPU 7 cannot be used: Caffe says: Check failed: error == cudaSuccess (101 vs. 0)  invalid device ordinal"
    )


@pytest.mark.parametrize(("rule", "code", "found"), CUPYS, ids=[rule for rule, _, _ in CUPYS])
def test_finds_what_is_wrong_with_cupy(rule, code, found, tmp_path, monkeypatch):
    (tmp_path / "cupy.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    answer = environment.ask("cupy", 0)
    finding = environment.cupy_failure(answer, 12)
    assert (finding.rule, finding.severity) == (rule, "warning")
    assert found in finding.found


def test_finds_nothing_wrong_with_cupy():
    found = {"cupy": "13.0", "cuda": 12, "devices": 1, "computes": True}
    assert environment.cupy_failure(Answer(found, "", 0), 12) is None
    assert environment.cupy_failure(Answer(found, "", 0), None) is None
    assert environment.cupy_failure(Answer(found, "", 0), 13).rule == "cupy-cuda"


def test_cupy_is_asked_where_caffes_gpu_mode_works(monkeypatch):
    found = {"cuda": 12, "has_addresses": True}
    answers = {"gpu": Answer(found, "", 0), "cupy": Answer({"missing": True, "traceback": ""}, "", 0)}
    monkeypatch.setattr(environment, "ask", lambda do, *arguments: answers[do])
    (finding,) = environment.check_gpu([0, 1], file="solver.prototxt", line=3)
    assert (finding.rule, finding.file, finding.line) == ("cupy-missing", "solver.prototxt", 3)
    assert finding.write == "pip install cupy-cuda12x"


def test_a_pycaffe_without_addresses_on_the_gpu(monkeypatch):
    monkeypatch.setattr(environment, "ask", lambda do, *_: Answer({"cuda": 12, "has_addresses": False}, "", 0))
    (finding,) = environment.check_gpu([0], file="solver.prototxt", line=3)
    assert (finding.rule, finding.severity, finding.line) == ("old-pycaffe", "warning", 3)
