"""The files that data layers read."""

import h5py
import numpy as np
import pytest

HDF5 = """layer { name: "data" type: "HDF5Data" top: "pred" top: "target"
  hdf5_data_param {
    source: "SOURCE"
    batch_size: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "pred" bottom: "target" top: "loss" }
"""
LMDB = """layer { name: "data" type: "Data" top: "data"
  data_param {
    source: "base"
    batch_size: 1 } }
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with an HDF5 file and a list of it, and one below with another list."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    with h5py.File("data.h5", "w") as file:
        file["pred"] = file["target"] = np.ones((2, 3), np.float32)
    (tmp_path / "list.txt").write_text("data.h5\n")
    (tmp_path / "below/other.txt").write_text("data.h5\n")
    (tmp_path / "missing.txt").write_text("data.h5\ngone.h5\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/data.mdb").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "line", "found", "write"),
    [
        (HDF5.replace("SOURCE", "no.txt"), 3, "there is no no.txt here, in /", 'source: "a path that is there'),
        (HDF5.replace("SOURCE", "x/other.txt"), 3, "there is no x/other.txt here", 'source: "below/other.txt"'),
        (
            HDF5.replace("SOURCE", "data.h5"),
            3,
            "data.h5 is an HDF5 file, and HDF5Data reads a text file that lists HDF5 files",
            'source: "data.txt", a text file with the line data.h5',
        ),
        (HDF5.replace("SOURCE", "missing.txt"), 3, "missing.txt lists gone.h5, number 2, which is not here", "paths"),
        (LMDB, 2, "base is LMDB, and is opened as LEVELDB", "backend: LMDB in data_param"),
    ],
)
def test_finds_a_source_that_is_not_there_or_of_another_kind(text, line, found, write, here, examine):
    (finding,) = examine(text)
    assert (finding.rule, finding.severity, finding.line, finding.layer) == ("data-source", "error", line, "data")
    assert found in finding.found
    assert write in finding.write


@pytest.mark.usefixtures("here")
def test_a_source_that_is_right(examine):
    assert examine(HDF5.replace("SOURCE", "list.txt")) == []
