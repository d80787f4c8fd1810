"""The findings of `pylayers doctor` for a text."""

import os

import pytest
from harness import KIT, ROOT
from harness.doctor_nets import SETTINGS

from pylayers.tools import doctor
from pylayers.tools.doctor import environment


@pytest.fixture(autouse=True)
def _tests_on_pythonpath(monkeypatch):
    """The probe's process finds this kit and the tests' layers, and no other."""
    path = [str(KIT), str(ROOT / "tests/harness/layers"), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


@pytest.fixture
def examine_alone(tmp_path, monkeypatch):
    """The findings for a text, without a look at Caffe itself, and without a run where no limit is given."""
    monkeypatch.setattr(environment, "check_caffe", lambda: ({}, []))
    monkeypatch.setattr(environment, "check_gpu", lambda gpus, **place: [])

    monkeypatch.chdir(tmp_path)  # the clone has a folder pylayers, which is not the kit where that is installed

    def examine_text(text, gpu=None, limit=None):
        (tmp_path / "net.prototxt").write_text(text)
        examined = doctor.examine([str(tmp_path / "net.prototxt")], gpu, limit)
        assert examined.is_checked
        assert not examined.refused
        return examined.findings

    return examine_text


@pytest.fixture
def examine(examine_alone, quick_children):
    """As `examine_alone`, but the probe works in child processes that start at once."""
    return examine_alone


@pytest.fixture
def solver(tmp_path, monkeypatch, examine):
    """Findings for the text of a solver; its nets can be written before."""
    monkeypatch.chdir(tmp_path)

    def examine_solver(text, settings=SETTINGS, limit=None, **nets):
        (tmp_path / "nets").mkdir(exist_ok=True)
        for name, net in nets.items():
            (tmp_path / f"nets/{name}.prototxt").write_text(net)
        return examine(f"{text}\n{settings}\n", limit=limit)

    return examine_solver
