"""plot_log: real logs of the caffe command, and the ways in which a log can be broken."""

import csv
import math
import re

import pytest
from harness import ROOT
from harness.caffe_command import CAFFE, train

from pylayers.tools.plot_log import plot, read_log, write_csv
from pylayers.tools.report import UserError

HEAD = "I20261122 14:13:54.290000  4736 "
START = HEAD + "solver.cpp:45] Initializing solver from parameters: \n"


def log(*lines):
    return "".join(f"{HEAD}solver.cpp:239] {line}\n" for line in lines)


RUN = START + log(
    "Iteration 0, Testing net (#0)",
    "    Test net output #0: accuracy = 0.125",
    "    Test net output #1: loss = 2.5 (* 1 = 2.5 loss)",
    "Iteration 0 (0 iter/s, 0.1s/100 iters), loss = 2.95",
    "    Train net output #0: auxiliary_loss = 1.5 (* 0.3 = 0.45 loss)",
    "    Train net output #1: loss = 2.5 (* 1 = 2.5 loss)",
    "Iteration 0, lr = 0.01",
)


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "caffe.log").write_text(text)
        return read_log(tmp_path / "caffe.log")

    return read_text


def test_all_numbers_of_a_run(read):
    assert [tuple(record) for record in read(RUN)] == [
        (0, 0, "test", 0, "accuracy", 0.125, None),
        (0, 0, "test", 0, "loss", 2.5, 1.0),
        (0, 0, "train", 0, "smoothed_loss", 2.95, None),
        (0, 0, "train", 0, "auxiliary_loss", 1.5, 0.3),
        (0, 0, "train", 0, "loss", 2.5, 1.0),
        (0, 0, "train", 0, "lr", 0.01, None),
    ]


@pytest.mark.skipif(CAFFE is None, reason="this Caffe has no caffe command on PATH")
def test_a_real_log(read, tmp_path):
    done = train(ROOT / "prototxt/auxiliary_loss.prototxt", tmp_path)
    records = [record for record in read(done.stderr) if record.output == "auxiliary_loss"]
    assert [record.iteration for record in records] == list(range(10))
    assert {record.weight for record in records} == {0.3}
    expected = re.findall(r"auxiliary_loss = (\S+)", done.stderr)
    assert [record.value for record in records] == [float(value) for value in expected]


def test_several_runs(read):
    records = read(RUN + RUN)
    assert [record.run for record in records] == [0] * 6 + [1] * 6


def test_a_partial_last_line_is_left_out(read):
    for cut in range(1, len("= 0.01\n")):
        assert read(RUN[:-cut]) == read(RUN)[:-1]


def test_no_test_phase(read):
    records = read(START + log("Iteration 0 (0 iter/s, 0.1s/1 iters), loss = 1e-05", "Iteration 1, loss = 0.5"))
    assert [(record.iteration, record.value) for record in records] == [(0, 1e-05), (1, 0.5)]


def test_several_test_nets(read):
    text = START + log(
        "Iteration 5, Testing net (#0)",
        "    Test net output #0: loss = 1",
        "Iteration 5, Testing net (#1)",
        "    Test net output #0: loss = 2",
    )
    assert [(record.net, record.value) for record in read(text)] == [(0, 1), (1, 2)]


def test_blobs_of_several_elements(read):
    lines = [f"    Test net output #{index}: prob = 0.{index}" for index in range(1, 4)]
    records = read(START + log("Iteration 5, Testing net (#0)", "    Test net output #0: loss = 1", *lines))
    assert [record.output for record in records] == ["loss", "prob[0]", "prob[1]", "prob[2]"]


def test_a_file_that_begins_in_the_middle(read):
    text = log("    Train net output #0: loss = 7", "Iteration 3, loss = 1", "    Train net output #0: loss = 2")
    assert [(record.iteration, record.value) for record in read(text)] == [(3, 1), (3, 2)]


@pytest.mark.parametrize(
    ("text", "value"), [("nan", math.nan), ("-nan", math.nan), ("inf", math.inf), ("-3.5e+10", -3.5e10)]
)
def test_numbers_out_of_the_ordinary(read, text, value):
    (record,) = read(log(f"Iteration 3, loss = {text}"))
    assert record.value == pytest.approx(value, nan_ok=True)


def test_other_lines_are_passed_over(read):
    noise = '  File "x.py", line 1\n\xff\x00 Iteration\nlayer { name: "loss" }\n'
    assert read(noise + RUN + noise) == read(RUN)


@pytest.mark.parametrize("text", ["", "no log\n", "Iteration 0, loss = 2"])
def test_rejects_a_file_without_iterations(read, text):
    with pytest.raises(ValueError, match=r"caffe.log holds no iteration of a Caffe solver"):
        read(text)


def test_csv(read, tmp_path):
    write_csv(read(RUN), tmp_path / "caffe.csv")
    with open(tmp_path / "caffe.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[3] == {
        "run": "0",
        "iteration": "0",
        "phase": "train",
        "net": "0",
        "output": "auxiliary_loss",
        "value": "1.5",
        "weight": "0.3",
    }


def test_plot_of_nothing_but_the_learning_rate(read, tmp_path):
    with pytest.raises(UserError, match="nothing to draw but the learning rate"):
        plot(read(log("Iteration 5, lr = 0.01")), tmp_path / "curves.png")


@pytest.mark.parametrize("text", [RUN, RUN + RUN, log("Iteration 3, loss = -1"), log("Iteration 3, loss = nan")])
def test_plot(read, tmp_path, text):
    plot(read(text), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caffe.log", "curves.png"]
