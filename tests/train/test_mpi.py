"""`pylayers train` in several processes that mpirun starts."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from harness.training import BIN, MPIRUN, difference, environment, needs_mpi, run, train, write, write_data

pytestmark = needs_mpi


@pytest.mark.parametrize(("ranks", "data"), [(2, "shuffle: true"), (3, "")])
def test_several_processes_are_one(ranks, data, folder):
    """Each with a batch of 8, against one process with a batch for all; also where both nets shuffle, by one rand()."""
    write("one", batch=8 * ranks, data=data, more="test_compute_loss: true")
    write("many", data=data, more="test_compute_loss: true")
    one, many = train("one"), train("many", ranks=ranks)
    assert (one.returncode, many.returncode) == (0, 0), many.stderr
    assert difference("many_iter_20.caffemodel", "one_iter_20.caffemodel") < 1e-6
    losses = [[float(loss) for loss in re.findall(r"loss(?: =|:) (\d\S*)", log.stderr)] for log in (one, many)]
    assert len(losses[0]) >= 8
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


RECORDER = """
import caffe
class Recorder(caffe.Layer):
    def setup(self, bottom, top): pass
    def reshape(self, bottom, top): pass
    def forward(self, bottom, top):
        if self.phase == caffe.TRAIN:
            with open(f"rows_{caffe.solver_rank()}.txt", "a") as file:
                print(*bottom[0].data[:, 0].astype(int), file=file)
    def backward(self, top, propagate_down, bottom): pass
"""


def test_each_row_comes_once_an_epoch_where_both_nets_shuffle(folder):
    """Tests come where the last rank is through with an epoch, and the others are not."""
    Path("recorder.py").write_text(RECORDER)
    write_data(data=np.tile(np.arange(48)[:, None], 6), label=np.zeros(48))
    recorder = 'layer { name: "r" type: "Python" bottom: "data" python_param { module: "recorder" layer: "Recorder" } }'
    write("both", rate=0, data="shuffle: true", layers=recorder, tests=3, more="snapshot_after_train: false")
    done = train("both", ranks=2, PYTHONPATH=str(folder))
    assert done.returncode == 0, done.stderr
    rows = [np.loadtxt(f"rows_{rank}.txt", int) for rank in (0, 1)]
    for epoch in range(6):
        seen = [each[3 * epoch : 3 * epoch + 3].ravel() for each in rows]
        assert sorted(np.concatenate(seen)) == list(range(48))
    assert not np.array_equal(rows[0][:3], rows[0][3:6])


def test_a_rank_that_fails_ends_all(folder):
    Path("mine.py").write_text(
        "import caffe\n"
        "class Mine(caffe.Layer):\n"
        "    def setup(self, bottom, top): self.calls = 0\n"
        "    def reshape(self, bottom, top): top[0].reshape()\n"
        "    def backward(self, top, down, bottom): pass\n"
        "    def forward(self, bottom, top):\n"
        "        self.calls += 1\n"
        "        if self.calls > 3 and caffe.solver_rank() == 1: raise ValueError('no such label')\n"
    )
    write("mine", more="test_initialization: false", module="mine", layer="Mine")
    done = train("mine", ranks=2, PYTHONPATH=str(folder))
    assert done.returncode not in (0, None)
    assert "ValueError: no such label" in done.stderr
    assert re.search(r"rank 1 of 2 on \S+ ends the training", done.stderr)


@pytest.mark.parametrize(("number", "ends"), [(signal.SIGUSR1, False), (signal.SIGUSR2, True)])
def test_a_signal_to_mpirun_reaches_all_ranks(number, ends, folder):
    write("long", iterations=10**8, tests=10**6, more="test_initialization: false snapshot_after_train: false")
    command = [*MPIRUN, "-n", "2", BIN / "pylayers", "train", "--solver", "long.prototxt"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            for line in process.stderr:
                if "Learning Rate Policy" in line:
                    break
            time.sleep(0.5)
            process.send_signal(number)
            wait_for(lambda: list(folder.glob("long_iter_*.solverstate")))
            if ends:
                log = process.communicate(timeout=30)[1]
                assert process.returncode == 0
                assert "Optimization stopped early." in log
            else:
                assert process.poll() is None
        finally:
            process.terminate()
    assert not list(folder.glob(".*part*"))


def test_a_rank_that_is_killed_ends_all(folder):
    write("long", iterations=10**8, tests=10**6, more="snapshot: 1000")
    command = [*MPIRUN, "-n", "2", BIN / "pylayers", "train", "--solver", "long.prototxt"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            wait_for(lambda: list(folder.glob("long_iter_*.solverstate")))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[-1]), signal.SIGKILL)
            start = time.monotonic()
            log = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert time.monotonic() - start < 10
    assert process.returncode != 0
    assert re.search(r"rank [01] with PID", log)
    last = max(folder.glob("long_iter_*.solverstate"), key=lambda path: int(path.stem.rpartition("_")[2]))
    solver = Path("long.prototxt")
    solver.write_text(
        solver.read_text().replace("max_iter: 100000000", f"max_iter: {int(last.stem.rpartition('_')[2]) + 1}")
    )
    assert train("long", "--snapshot", last.name, "--restart-data").returncode == 0
    assert not list(folder.glob(".*part*"))


def test_a_folder_without_the_data_is_named(folder):
    write("split")
    Path("other").mkdir()
    for name in ("split.prototxt", "split_net.prototxt"):
        Path("other", name).write_bytes(Path(name).read_bytes())
    one = ["-n", "1", BIN / "pylayers", "train", "--solver", "split.prototxt"]
    done = run(*MPIRUN, *one, ":", "-wdir", "other", *one)
    assert done.returncode not in (0, None)
    assert f'pylayers train: layer "data": there is no data.txt here, in {folder / "other"}' in done.stderr
    assert re.search(r"rank 1 of 2 on \S+ ends the training", done.stderr)


@pytest.mark.skipif(not shutil.which("ssh"), reason="mpirun reaches other hosts by ssh, and there is none")
def test_a_host_that_is_not_there(folder):
    write("far")
    done = run(
        *MPIRUN, "--host", "no-such-host.invalid", "-n", "1", BIN / "pylayers", "train", "--solver", "far.prototxt"
    )
    assert done.returncode not in (0, None)
    assert "no-such-host" in done.stderr + done.stdout


def wait_for(condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 30 seconds")
