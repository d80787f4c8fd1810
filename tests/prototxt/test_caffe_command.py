"""The `caffe` command with Python layers, as users call it."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import ROOT
from harness.caffe_command import CAFFE, SOLVER, environment, losses, train
from harness.examples import EXAMPLES, FOLDER, ids

SOLVERS = sorted(FOLDER.glob("demo/*_solver.prototxt"))
pytestmark = pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")


@pytest.mark.parametrize("path", EXAMPLES, ids=ids(EXAMPLES))
def test_trains(path, tmp_path):
    found = losses(train(path, tmp_path))
    assert len(found) == 10
    assert len(set(found)) == 10
    expected = losses(train(path.with_name(f"{path.stem}_builtin.prototxt"), tmp_path))
    assert found == pytest.approx(expected, rel=1e-5)  # the log has six digits


@pytest.mark.parametrize("solver", SOLVERS, ids=ids(SOLVERS))
@pytest.mark.usefixtures("demo_data")
def test_trains_with_the_demos_solvers(solver, tmp_path):
    shortened = re.sub(r"max_iter: \d+", "max_iter: 10 display: 1", re.sub("display: .*", "", solver.read_text()))
    (tmp_path / "solver.prototxt").write_text(shortened)
    command = [CAFFE, "train", f"--solver={tmp_path / 'solver.prototxt'}"]
    assert len(losses(subprocess.run(command, capture_output=True, text=True, check=False, env=environment()))) == 10


def test_signals_write_snapshots_of_a_net_with_a_python_loss(tmp_path):
    """SIGHUP writes one and goes on, SIGINT writes one and stops; both in HDF5, from which the training resumes."""
    solver = tmp_path / "solver.prototxt"
    text = SOLVER.format(net=FOLDER / "euclidean_loss.prototxt").replace("max_iter: 10 ", "max_iter: 100000000 ")
    text = text.replace("snapshot_after_train: false", "")  # SIGINT's is the one after the training
    solver.write_text(f'{text} snapshot_prefix: "{tmp_path}/net" snapshot_format: HDF5')
    with (tmp_path / "log").open("w") as log:
        training = subprocess.Popen([CAFFE, "train", f"--solver={solver}"], stderr=log, env=environment())
    try:
        wait_for(lambda: "Iteration 1 " in (tmp_path / "log").read_text())
        training.send_signal(signal.SIGHUP)
        wait_for(lambda: len(list(tmp_path.glob("*.solverstate.h5"))) == 1)
        assert training.poll() is None
        training.send_signal(signal.SIGINT)
        assert training.wait(60) == 0
    finally:
        training.kill()
    states = sorted(tmp_path.glob("*.solverstate.h5"), key=lambda path: path.stat().st_mtime_ns)
    assert len(states) == 2
    iteration = int(re.search(r"_iter_(\d+)", states[-1].name)[1])
    solver.write_text(solver.read_text().replace("100000000", str(iteration + 2)))
    resumed = [CAFFE, "train", f"--solver={solver}", f"--snapshot={states[-1]}"]
    assert len(losses(subprocess.run(resumed, capture_output=True, text=True, check=False, env=environment()))) == 2


def wait_for(condition, seconds=60):
    """Returns when the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_trains_by_its_path_alone(tmp_path):
    """No activated environment, another folder, an almost empty environment."""
    net = ROOT / "prototxt/euclidean_loss.prototxt"
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    assert len(losses(train(net, tmp_path, cwd=tmp_path, env=bare))) == 10


@pytest.mark.parametrize(
    ("net", "good", "bad", "message"),
    [
        (
            "euclidean_loss",
            '"BATCH_SIZE"}',
            '"BATCHSIZE"}',
            'ValueError: EuclideanLossLayer: param_str key "normalization" must be one of "BATCH_SIZE", "FULL", '
            '"NONE", found "BATCHSIZE"',
        ),
        (
            "weighted_softmax_loss",
            "shape { dim: 32 dim: 5 }",
            "shape { dim: 32 dim: 9 }",
            r"ValueError: WeightedSoftmaxLossLayer: bottom\[1\] \(label\) holds [5-8] at .*; "
            "a label must be a whole number from 0 to 4",
        ),
    ],
    ids=["param_str", "label"],
)
def test_a_mistake_ends_with_status_1_and_the_message(net, good, bad, message, tmp_path):
    text = (ROOT / f"prototxt/{net}.prototxt").read_text()
    assert good in text
    (tmp_path / "net.prototxt").write_text(text.replace(good, bad))
    done = train(tmp_path / "net.prototxt", tmp_path)
    assert done.returncode == 1
    assert re.search(message, done.stderr)


UPGRADE = Path(CAFFE or "caffe").with_name("upgrade_net_proto_text")


@pytest.mark.skipif(not UPGRADE.exists(), reason="this Caffe has no upgrade_net_proto_text beside its command")
def test_a_net_of_the_old_format_is_upgraded(tmp_path):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(
        'input: "data" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 4\n'
        'layers { name: "loss" type: EUCLIDEAN_LOSS bottom: "data" bottom: "data" top: "loss" }\n'
    )
    subprocess.run([UPGRADE, old, new], check=True, env={"PATH": os.environ["PATH"]})
    assert 'type: "EuclideanLoss"' in new.read_text()
    assert "layers" not in new.read_text()
