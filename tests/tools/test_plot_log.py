"""plot_log: real logs of the caffe command, and the ways in which a log can be broken."""

import csv
import io
import math
import re

import pytest
from harness import ROOT
from harness.caffe_command import CAFFE, train

from pylayers.tools import cli
from pylayers.tools.plot_log import reading
from pylayers.tools.plot_log.drawing import curves, plot, write_csv
from pylayers.tools.plot_log.reading import join, read_log
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
        return read_log(tmp_path / "caffe.log").records

    return read_text


def test_all_numbers_of_a_run(read):
    assert [record[:-1] for record in read(RUN)] == [
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
    ("text", "value"),
    [
        ("nan", math.nan),
        ("-nan", math.nan),
        ("inf", math.inf),
        ("-3.5e+10", -3.5e10),
        ("1.#QNAN", math.nan),  # as Windows prints it
        ("-1.#IND", math.nan),
        ("1.#INF", math.inf),
        ("-nan(ind)", math.nan),
    ],
)
def test_numbers_out_of_the_ordinary(read, text, value):
    (record,) = read(log(f"Iteration 3, loss = {text}"))
    assert record.value == pytest.approx(value, nan_ok=True)


def test_other_lines_are_passed_over(read):
    noise = '  File "x.py", line 1\n\xff\x00 Iteration\nlayer { name: "loss" }\n'
    assert read(noise + RUN + noise) == read(RUN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"caffe.log is empty; caffe train writes its log to stderr: caffe train \.\.\. 2> caffe.log$"),
        ("no log\n", "caffe.log is no log of Caffe's solver: it holds no line such as 'I1122 "),
        ("Iteration 0, loss = 2", "caffe.log is no log of Caffe's solver"),
        ("step,loss\n0,2.5\n", "caffe.log is no log of Caffe's solver"),
    ],
)
def test_rejects_a_file_without_iterations(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize("line", ["Iteration 20, loss = 2.5.5", "Iteration 2x, loss = 2.5", "Iteration 20, loss = "])
def test_what_follows_an_unreadable_iteration_is_not_booked_to_the_one_before(tmp_path, line):
    text = log("Iteration 10, loss = 3", line, "    Train net output #0: top = 2.5 (* 1 = 2.5 loss)")
    (tmp_path / "caffe.log").write_text(text)
    found = read_log(tmp_path / "caffe.log")
    expected = [(10, "smoothed_loss")] + [(20, "top")] * ("20," in line)
    assert [(record.iteration, record.output) for record in found.records] == expected
    assert found.unread == [2]


def test_an_unreadable_test_is_not_booked_to_the_one_before(read):
    lines = ["Iteration 10, Testing net (#0)", "Iteration x, Testing net (#0)", "    Test net output #0: loss = 1"]
    records = read(log("Iteration 10, loss = 3", *lines))
    assert [record.phase for record in records] == ["train"]


def test_lines_of_other_kinds_are_not_unread(tmp_path):
    (tmp_path / "caffe.log").write_text(RUN + log("Iteration 7, and so on", "Snapshotting to x_iter_7.caffemodel"))
    assert read_log(tmp_path / "caffe.log").unread == []


def test_utf16_and_windows_line_ends(tmp_path, read):
    (tmp_path / "powershell.log").write_text(RUN.replace("\n", "\r\n"), encoding="utf-16", newline="")
    found = read_log(tmp_path / "powershell.log").records
    assert [record[:-1] for record in found] == [record[:-1] for record in read(RUN)]


# A resumed run.


def training(*iterations, done=False, output="loss", start=START):
    lines = []
    for iteration in iterations:
        lines += [f"Iteration {iteration}, loss = 2", f"    Train net output #0: {output} = 2 (* 1 = 2 loss)"]
    return start + log(*lines) + (log("Optimization Done.") if done else "")


def logs(tmp_path, *texts):
    for index, text in enumerate(texts):
        (tmp_path / f"part{index}.log").write_text(text)
    return [read_log(tmp_path / f"part{index}.log") for index in range(len(texts))]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (training(0, 20, 40), training(60, 80)),
        (training(0, 20, 40, 60, 80), training(60, 80)),  # cut off after the snapshot
        (training(0, 20, 40, 60, done=True), training(60, 80)),  # trained on, with a larger max_iter
    ],
)
@pytest.mark.parametrize("files", [1, 2])
def test_a_resumed_run_is_joined(first, second, files, tmp_path):
    records, resumed = join(logs(tmp_path, *([first + second] if files == 1 else [first, second])))
    losses = [record for record in records if record.output == "loss"]
    assert [record.iteration for record in losses] == [0, 20, 40, 60, 80]
    assert {(record.log, record.run) for record in records} == {(str(tmp_path / "part0.log"), 0)}
    assert resumed == [(str(tmp_path / f"part{files - 1}.log"), 60)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (training(0, 20), training(0, 20)),
        (training(0, 20), training(80, 100)),  # some of it is missing
        (training(0, 20, 40, done=True), training(20, 40)),  # from its middle, perhaps with another solver
        (training(0, 20, 40), training(60, 80, output="another")),
    ],
)
@pytest.mark.parametrize("files", [1, 2])
def test_another_run_is_not_joined(first, second, files, tmp_path):
    read = logs(tmp_path, *([first + second] if files == 1 else [first, second]))
    records, resumed = join(read)
    assert records == [record for log in read for record in log.records]
    assert resumed == []


def test_runs_after_a_joined_one_are_counted_on(tmp_path):
    records, _ = join(logs(tmp_path, training(0, 20) + training(40) + training(0, 20)))
    assert [record.run for record in records if record.output == "loss"] == [0, 0, 0, 1, 1]


# Pictures.


def labels(tmp_path, *texts):
    return list(curves([record for log in logs(tmp_path, *texts) for record in log.records]))


def test_curves_are_named_after_their_files(tmp_path):
    assert labels(tmp_path, training(0)) == ["train smoothed_loss", "train loss (* 1)"]
    found = labels(tmp_path, training(0), training(0) + training(0))
    assert [label for label in found if "loss (" in label] == [
        "part0.log: train loss (* 1)",
        "part1.log: train loss (* 1), run 0",
        "part1.log: train loss (* 1), run 1",
    ]


def test_files_of_one_name_are_named_by_their_paths(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "caffe.log").write_text(log("Iteration 0, loss = 2"))
    paths = [tmp_path / folder / "caffe.log" for folder in "ab"]
    assert list(curves([record for path in paths for record in read_log(path).records])) == [
        f"{path}: train smoothed_loss" for path in paths
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (training(0, 20), 1),
        (training(0, 20).replace("20, loss = 2", "20, loss = 2.1"), 2),
        (training(0, 20).replace("= 2 (* 1 =", "= nan (* 1 =").replace(", loss = 2", ", loss = nan"), 1),
        (training(0, 20).replace("20, loss = 2", "20, loss = 2.0.0"), 1),  # not read at 20
        (log("Iteration 0, loss = 2"), 1),
        (RUN, 5),  # two losses: their sum is neither
    ],
)
def test_the_smoothed_loss_is_drawn_only_where_it_differs(read, tmp_path, text, count):
    assert plot(read(text), tmp_path / "curves.png") == count


@pytest.mark.parametrize(
    ("name", "begin"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.SVG", b"<?xml"), ("x.pdf", b"%PDF")]
)
def test_the_kind_of_picture_by_its_name(name, begin, tmp_path, capsys):
    (tmp_path / "caffe.log").write_text(RUN)
    assert cli.main(["plot-log", str(tmp_path / "caffe.log"), "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert capsys.readouterr().out == f"{tmp_path / name}: iterations 0 to 0, 5 curves\n"


def test_refuses_another_kind_of_picture(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plot-log", "caffe.log", "-o", "x.jpg"])
    assert "must end in .png, .svg or .pdf, found 'x.jpg'" in capsys.readouterr().err


def test_the_line_of_success(tmp_path, capsys):
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    first.write_text(training(0, 20) + training(0, 20, 40))
    second.write_text(training(60, 80) + log("Iteration 100, loss = x"))
    output = tmp_path / "out.csv"
    assert cli.main(["plot-log", str(first), str(second), "--csv", str(output)]) == 0
    assert capsys.readouterr().out == (
        f"{output}: iterations 0 to 80, 2 runs, {second} goes on from iteration 60, 14 numbers, "
        f"line 6 of {second} could not be read\n"
    )
    assert cli.main(["plot-log", str(first), str(second), "--no-join", "--csv", str(output)]) == 0
    assert "iterations 0 to 80, 3 runs, 14 numbers" in capsys.readouterr().out


def test_a_log_from_stdin(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading.sys, "stdin", io.TextIOWrapper(io.BytesIO(RUN.encode())))
    assert cli.main(["plot-log", "-", "--csv", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "0,0,test,0,accuracy,0.125,,stdin"
    monkeypatch.setattr(reading.sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert cli.main(["plot-log", "-", "--csv", str(tmp_path / "out.csv")]) == 2
    assert "stdin is empty" in capsys.readouterr().err


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
        "log": str(tmp_path / "caffe.log"),
    }


def test_plot_of_nothing_but_the_learning_rate(read, tmp_path):
    with pytest.raises(UserError, match="nothing to draw but the learning rate"):
        plot(read(log("Iteration 5, lr = 0.01")), tmp_path / "curves.png")


@pytest.mark.parametrize("text", [RUN, RUN + RUN, log("Iteration 3, loss = -1"), log("Iteration 3, loss = nan")])
def test_plot(read, tmp_path, text):
    plot(read(text), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caffe.log", "curves.png"]
