"""A disk that is full, a folder that cannot be written, a file cut short: one line each, and nothing half-written."""

import collections
import io
import sys
import tempfile

import h5py
import numpy as np
import pytest
from harness import ROOT
from harness.full_disk import file_size_limit

from pylayers.caffe_nets import child
from pylayers.tools import cli, report

Usage = collections.namedtuple("Usage", "free")
pytestmark = pytest.mark.usefixtures("quick_children")
NETS = [str(ROOT / "prototxt" / f"euclidean_loss{twin}.prototxt") for twin in ("", "_builtin")]
LOG = "".join(f"I1122 14:13:54 1 solver.cpp:239] Iteration {index} (0 iter/s), loss = 2.5\n" for index in range(300))
# Commands that write a file: all arguments but its name.
WRITERS = [
    ["compare", *NETS, "--repeat", "1", "--json"],
    ["compare", *NETS, "--repeat", "1", "--plot"],
    ["class-weights", "labels.npy", "--classes", "300", "--json"],
    ["plot-log", "caffe.log", "-o"],
    ["plot-log", "caffe.log", "--csv"],
]
PRINTERS = [
    ["compare", *NETS, "--repeat", "1"],
    ["check-gradient", "EuclideanLoss", "--bottom", "4,3", "--bottom", "4,3"],
    ["class-weights", "labels.npy", "--classes", "300"],
    ["plot-log", "caffe.log", "--csv", "out.csv"],
    ["doctor", NETS[0]],
]
each_writer = pytest.mark.parametrize("arguments", WRITERS, ids=lambda words: f"{words[0]} {words[-1]}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with what the commands read."""
    report.pyplot()  # now, since matplotlib writes a list of fonts when it is first imported
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.arange(600) % 300)
    (tmp_path / "caffe.log").write_text(LOG)
    return tmp_path


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def only_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


@each_writer
def test_a_full_disk_leaves_the_file_as_it_was(arguments, folder, capsys):
    (folder / "out.png").write_text("before")
    before = files(folder)
    with file_size_limit(5000):
        assert cli.main([*arguments, "out.png"]) == 2
    assert only_line(capsys) == f"pylayers {arguments[0]}: cannot write out.png: File too large"
    assert files(folder) == before
    assert cli.main([*arguments, "out.png"]) == 0
    assert files(folder)["out.png"] != b"before"
    assert files(folder).keys() == before.keys()


@pytest.mark.parametrize("arguments", [WRITERS[0], WRITERS[2], WRITERS[4]], ids=lambda words: words[0])
def test_a_device_that_is_full(arguments, folder, capsys):
    assert cli.main([*arguments, "/dev/full"]) == 2
    assert only_line(capsys) == f"pylayers {arguments[0]}: cannot write /dev/full: No space left on device"


@each_writer
def test_a_folder_that_cannot_be_written(arguments, folder, capsys):
    before = files(folder)
    assert cli.main([*arguments, "caffe.log/out.png"]) == 2
    assert only_line(capsys) == f"pylayers {arguments[0]}: cannot write caffe.log/out.png: Not a directory"
    assert files(folder) == before


@pytest.mark.parametrize("arguments", PRINTERS, ids=lambda words: words[0])
def test_stdout_on_a_full_disk(arguments, folder, capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.main(arguments) == 2
        monkeypatch.undo()
    line = only_line(capsys)
    assert line.startswith(f"pylayers {arguments[0]}: ")
    assert line.removesuffix("or where the output goes").rstrip(", ").split(": ", 1)[1] in (
        "cannot write to stdout: No space left on device",
        # Where Python's buffer is smaller than what is printed, the print fails, and not the end.
        f"No space left on device: for temporary files, in {tempfile.gettempdir()} (TMPDIR names another folder)",
    )


def test_help_on_a_full_disk(capsys, monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full, write_through=True))
        assert cli.main(["--help"]) == 2
        monkeypatch.undo()
    assert only_line(capsys).startswith("pylayers: No space left on device: ")


@pytest.mark.parametrize("arguments", PRINTERS[:2], ids=lambda words: words[0])
def test_temporary_files_on_a_full_disk(arguments, folder, capsys):
    with file_size_limit(0):
        assert cli.main(arguments) == 2
    assert only_line(capsys).startswith(f"pylayers {arguments[0]}: File too large: for temporary files, in /")


def test_a_child_whose_log_finds_no_place(monkeypatch):
    monkeypatch.setattr(child.shutil, "disk_usage", lambda _: Usage(0))
    assert child.reason("", 1).startswith("nothing can be tried, since the disk with /")
    monkeypatch.setattr(child.shutil, "disk_usage", lambda _: Usage(1))
    assert child.reason("", 1) == "Caffe ended the process with status 1"


# Files that are cut short.


def test_hdf5_that_is_cut_short(folder, capsys):
    with h5py.File("data.h5", "w") as file:
        file["data"], file["target"] = np.ones((16, 20)), np.ones((16, 10))
        file["label"] = np.zeros(2000)
    whole = (folder / "data.h5").read_bytes()
    (folder / "list.txt").write_text("data.h5\n")
    for size, reason in ((len(whole) - 1, "it is cut short"), (1000, "it is cut short"), (10, "it is no HDF5 file")):
        (folder / "data.h5").write_bytes(whole[:size])
        for arguments in (
            ["compare", *NETS, "--data", "data.h5"],
            ["class-weights", "data.h5:label", "--classes", "3"],
            ["class-weights", "list.txt:label", "--classes", "3"],
        ):
            assert cli.main(arguments) == 2
            listed = ", which list.txt lists" if arguments[1] == "list.txt:label" else ""
            assert only_line(capsys) == f"pylayers {arguments[0]}: cannot read data.h5{listed}: {reason}"


@pytest.mark.parametrize("kind", ["data", "label"])
def test_lmdb_that_is_cut_short(kind, folder, capsys):
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed; make setup brings it")
    with lmdb.open("db", map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for index in range(500):
            transaction.put(f"{index:08}".encode(), b"\x08\x01" * 50)
    whole = (folder / "db/data.mdb").read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 5000, 100, 0):
        (folder / "db/data.mdb").write_bytes(whole[:size])
        assert cli.main(["class-weights", f"db:{kind}", "--classes", "3"]) == 2
        assert only_line(capsys).startswith("pylayers class-weights: cannot read db: ")


def test_npy_that_is_cut_short(folder, capsys):
    whole = (folder / "labels.npy").read_bytes()
    for size in (len(whole) - 1, 100, 5, 0):
        (folder / "labels.npy").write_bytes(whole[:size])
        assert cli.main(["class-weights", "labels.npy", "--classes", "300"]) == 2
        assert only_line(capsys).startswith("pylayers class-weights: cannot read labels.npy: ")


def test_log_that_is_cut_short(folder, capsys):
    """Half a last line is left out, as that of a training which is still running."""
    length = len(LOG.splitlines(keepends=True)[0])
    for size in range(3 * length):
        (folder / "caffe.log").write_text(LOG[:size])
        status = cli.main(["plot-log", "caffe.log", "--csv", "out.csv"])
        printed = capsys.readouterr()
        if size < length:
            assert status == 2
            assert printed.err.count("\n") == 1
        else:
            assert status == 0
            assert (folder / "out.csv").read_text().count("\n") == 1 + size // length


def test_net_and_matrix_that_are_cut_short(folder, capsys):
    text = (ROOT / "prototxt/weighted_softmax_loss_builtin.prototxt").read_text()
    (folder / "cut.prototxt").write_text(text[: text.rindex("}")])
    assert cli.main(["compare", "cut.prototxt", NETS[0]]) == 2
    assert "cut.prototxt is not a net: " in only_line(capsys)
    matrix = "prototxt/weighted_softmax_loss_builtin.binaryproto"
    (folder / "matrix.binaryproto").write_bytes((ROOT / matrix).read_bytes()[:20])
    assert matrix in text
    (folder / "net.prototxt").write_text(text.replace(matrix, "matrix.binaryproto"))
    assert cli.main(["compare", "net.prototxt", "net.prototxt"]) == 2
    assert "net.prototxt: Caffe says: Check failed: " in only_line(capsys)
