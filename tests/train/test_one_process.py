"""`pylayers train` in one process, which is `caffe train`."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from harness.training import BIN, parameters, run, said, train, write, write_data

from pylayers.caffe_nets.build import load
from pylayers.errors import UserError
from pylayers.runtime import blobs
from pylayers.train import display
from pylayers.train.losses import losses_of, total_loss

pytest.importorskip("h5py")


@pytest.mark.parametrize(
    "more",
    ["", "iter_size: 2", 'type: "Adam" momentum2: 0.999', "clip_gradients: 0.1 snapshot: 7", "test_compute_loss: 1"],
)
def test_one_process_is_caffe_train(more, folder):
    """The same parameters to the last bit, and the same words."""
    write("theirs", more=more)
    write("ours", more=more)
    caffe = run(BIN / "caffe", "train", "--solver=theirs.prototxt")
    ours = train("ours")
    assert (caffe.returncode, ours.returncode) == (0, 0), ours.stderr
    for path in folder.glob("theirs_iter_*.caffemodel"):
        np.testing.assert_equal(parameters(path), parameters(str(path).replace("theirs_", "ours_")))
    # The command says at the end once more that it is done.
    assert said(ours.stderr) == [line.replace("theirs", "ours") for line in said(caffe.stderr)[:-1]]
    assert not list(folder.glob(".*part*"))


def test_goes_on_as_if_it_had_never_stopped(folder):
    """The data too, which are shuffled in both nets, and of which iteration 11 is in the middle."""
    shuffled = {"data": "shuffle: true"}
    write("whole", more="snapshot: 11", **shuffled)
    write("rest", **shuffled)
    write("theirs", **shuffled)
    assert train("whole").returncode == 0
    done = train("rest", "--snapshot", "whole_iter_11.solverstate")
    assert done.returncode == 0, done.stderr
    np.testing.assert_equal(parameters("rest_iter_20.caffemodel"), parameters("whole_iter_20.caffemodel"))
    done = train("rest", "--snapshot", "whole_iter_11.solverstate", "--restart-data")
    assert done.returncode == 0, done.stderr
    caffe = run(BIN / "caffe", "train", "--solver=theirs.prototxt", "--snapshot=whole_iter_11.solverstate")
    assert caffe.returncode == 0, caffe.stderr
    np.testing.assert_equal(parameters("rest_iter_20.caffemodel"), parameters("theirs_iter_20.caffemodel"))


def test_snapshots_in_hdf5(folder):
    write("whole", more="snapshot: 12 snapshot_format: HDF5")
    assert train("whole").returncode == 0
    write("rest")
    done = train("rest", "--snapshot", "whole_iter_12.solverstate.h5")
    assert done.returncode == 0, done.stderr
    caffe = run(BIN / "caffe", "train", "--solver=rest.prototxt", "--snapshot=whole_iter_12.solverstate.h5")
    assert caffe.returncode == 0, caffe.stderr


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        (["--weights", "gone.caffemodel"], "", "there is no file gone.caffemodel"),
        (["--gpu", "x"], "", "must be GPU numbers, such as 0 or 0,1, or local, found 'x'"),
        (["--sovler", "x"], "", "unrecognized arguments: --sovler x; see pylayers train --help"),
        (["--snapshot", "bad_net.prototxt"], "", "bad_net.prototxt is no .solverstate of Caffe"),
        ([], 'snapshot_prefix: "no/such/a"', 'the folder no/such of snapshot_prefix "no/such/a" is not there'),
        pytest.param(
            ["--gpu", "0"],
            "",
            "this Caffe is built for the CPU alone",
            marks=pytest.mark.skipif(blobs.CUDA_BUILD, reason="this Caffe is built for CUDA"),
        ),
        ([], "nett: 1", 'is not a solver: '),
        (["--solver", "none.prototxt"], "", 'none.prototxt names no net to train: net: "..."'),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(options, more, message, folder):
    write("bad")
    Path("none.prototxt").write_text("base_lr: 1")
    Path("bad.prototxt").write_text(Path("bad.prototxt").read_text().replace('snapshot_prefix: "bad"', more))
    done = train("bad", *options, GLOG_minloglevel="2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("pylayers train: ")
    assert message in line


def test_a_file_that_is_not_there(folder):
    write("bad")
    Path("data.txt").unlink()
    done = train("bad", GLOG_minloglevel="2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == f'pylayers train: layer "data": there is no data.txt here, in {folder}'


@pytest.mark.parametrize("more", [{"module": "no_such_module"}, {"options": '{"axes": 1}'}])
def test_a_python_layer_that_cannot_be_made(more, folder):
    write("bad", **more)
    done = train("bad", GLOG_minloglevel="2")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("pylayers train: Caffe cannot make a Python layer")


def test_options_with_one_dash_as_caffe_takes_them(folder):
    write("dash", iterations=1)
    done = run(BIN / "pylayers", "train", "-solver", "dash.prototxt", "-sigint_effect=none")
    assert done.returncode == 0, done.stderr


def test_no_snapshot_of_nan(folder, train_in_threads):
    """A row whose label is ignored leaves the loss finite, and makes the parameters NaN."""
    data, labels = np.ones((48, 6)), np.zeros(48)
    data[18, 3], labels[18] = np.nan, 3
    write_data(data=data, label=labels)
    write("nan", more="snapshot: 1 test_initialization: false", options='{"ignore_label": 3}')
    with pytest.raises(UserError, match='the parameters of layer "hidden" are NaN after iteration 2, and no snapshot'):
        train_in_threads("nan", 1)
    assert [path.name for path in sorted(folder.glob("*.solverstate"))] == [
        "nan_iter_1.solverstate",
        "nan_iter_2.solverstate",
    ]
    train_in_threads("nan", 1, "--allow-nan")


def test_nan_ends_the_training_and_is_placed(folder, train_in_threads):
    data = np.ones((48, 6))
    data[18, 3] = np.nan
    write_data(data=data, label=np.zeros(48))
    write("nan", more="snapshot: 1 test_initialization: false")
    where = r'the loss is NaN in iteration 2: the first blob with NaN is "data" of layer "data", 1 of 48; --allow-nan'
    with pytest.raises(UserError, match=where):
        train_in_threads("nan", 1)
    train_in_threads("nan", 1, "--allow-nan")


def test_a_full_disk_leaves_the_last_snapshot(folder, train_in_threads, monkeypatch, capsys):
    write("full", more="snapshot: 5 test_initialization: false")
    room = iter([10**9, 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=next(room)))
    with pytest.raises(UserError, match=r"no room for a snapshot in \.: it takes \d+ bytes, and 100 are free"):
        train_in_threads("full", 1)
    assert "The last whole snapshot is full_iter_5.solverstate" in capsys.readouterr().err
    assert not list(folder.glob(".*part*"))


def test_a_line_of_progress_on_a_terminal(folder, train_in_threads, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(display, "_EVERY", 0)
    write("line")
    train_in_threads("line", 1)
    lines = [line for line in capsys.readouterr().err.split("\r") if "loss" in line]
    assert len(lines) == 20
    assert re.search(r"20/20  loss \d\S+  lr 0.025  \S+ iter/s  0:00:00 left$", lines[-1])


def test_a_loss_in_place_counts_once():
    net = load(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 3 } data_filler { value: 2 } } }'
        'layer { name: "scaled" type: "Power" bottom: "x" top: "x" loss_weight: 2 power_param { scale: 3 } }'
    )
    net.forward()
    assert total_loss(losses_of(net)) == 36
