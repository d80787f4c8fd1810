"""The demo's exit status, on a few iterations of real training."""

import shutil

import numpy as np
import pytest
import report
import train
from harness import ROOT
from harness.full_disk import file_size_limit


@pytest.fixture
def few_iterations(tmp_path, monkeypatch):
    """The demo in a folder of its own, so that a finished `make demo` keeps its picture."""
    shutil.copytree(ROOT / "prototxt", tmp_path / "prototxt")
    monkeypatch.chdir(tmp_path)
    return ["--iterations", "5"]


def test_pairs_that_agree_end_with_status_0(few_iterations, capsys):
    assert train.main(few_iterations) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in train.EXPERIMENTS.values())
    assert (train.OUTPUT / "curves.png").stat().st_size > 10000


def test_a_pair_that_differs_ends_with_status_1(few_iterations, capsys):
    net = train.NETS / "autoencoder.prototxt"
    net.write_text(net.read_text().replace("loss_weight: 1", "loss_weight: 1.1"))
    assert train.main(few_iterations) == 1
    assert "the loss curves of a pair differ by" in capsys.readouterr().err


def test_elsewhere_it_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train.main([])
    assert "run it from the root of the clone" in capsys.readouterr().err


def test_nan_is_a_difference():
    good, bad = (train.Run(np.array([1.0, loss]), 0, 0, 0) for loss in (1, np.nan))
    assert report.worst_difference({"a": (good, good), "b": (good, good)}) == 0
    assert np.isnan(report.worst_difference({"a": (good, good), "b": (good, bad)}))


def test_a_full_disk_ends_in_one_line(few_iterations, capsys):
    with file_size_limit(10000):
        assert train.main(few_iterations) == 2
    assert capsys.readouterr().err == "cannot write build/demo/digits_train.h5: File too large\n"
    assert list(train.OUTPUT.iterdir()) == []


def test_a_folder_that_cannot_be_written_ends_in_one_line(few_iterations, capsys):
    (train.OUTPUT.parent).touch()
    assert train.main(few_iterations) == 2
    assert capsys.readouterr().err == "build/demo: Not a directory\n"
