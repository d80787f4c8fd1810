"""The command line: what it takes, what it refuses, and that a mistake ends in one line."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from pylayers import cli

EUCLIDEAN = ["prototxt/euclidean_loss.prototxt", "prototxt/euclidean_loss_builtin.prototxt"]


def python(*arguments, **environment):
    """Runs this Python, with Caffe's log level as a user has it."""
    variables = {key: value for key, value in os.environ.items() if key != "GLOG_minloglevel"}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments], env={**variables, **environment}, cwd=ROOT, capture_output=True, text=True
    )


def test_module_runs_as_a_command_without_caffes_log():
    done = python("-m", "pylayers", "compare", *EUCLIDEAN)
    assert done.returncode == 0, done.stderr
    assert "within 1e-06" in done.stdout
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_a_net_that_ends_the_process_ends_in_one_line(tmp_path):
    (tmp_path / "net.prototxt").write_text((ROOT / EUCLIDEAN[0]).read_text().replace("InnerProduct", "NoSuchType"))
    done = python("-m", "pylayers", "compare", str(tmp_path / "net.prototxt"), EUCLIDEAN[1])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Unknown layer type: NoSuchType" in done.stderr


def test_import_of_the_package_gives_the_layers_alone():
    done = python("-c", "import sys, pylayers; print([m for m in ('rich', 'pylayers.cli') if m in sys.modules])")
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_help_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"example:\n  pylayers {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["contrast"], "invalid choice: 'contrast'"),
        (["compare", *EUCLIDEAN, "--tolerance", "-1"], "must not be negative, found '-1'"),
        (["compare", *EUCLIDEAN, "--tolerance", "x"], "must be a number, found 'x'"),
        (["compare", *EUCLIDEAN, "--loss-weight", "nan"], "must be a finite number, found 'nan'"),
        (["compare", *EUCLIDEAN, "--seed", "-1"], "must be a whole number from 0 to 2147483647, found '-1'"),
        (["compare", *EUCLIDEAN, "--repeat", "0"], "must be at least 1, found 0"),
        (["compare", *EUCLIDEAN, "--plot", "x.pdf"], "must end in .png, found 'x.pdf'"),
        (["compare", *EUCLIDEAN, "--device", "tpu"], "invalid choice: 'tpu'"),
        (["bench", "--layer", "hinge"], "invalid choice: 'hinge'"),
    ],
)
def test_refuses_arguments_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("pylayers")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "give two nets, A.prototxt and B.prototxt, or --all"),
        (["compare", EUCLIDEAN[0]], "give two nets, A.prototxt and B.prototxt, or --all"),
        (["compare", "--all", *EUCLIDEAN], "--all takes neither nets"),
        (["compare", "--all", "--data", "x.h5"], "--all takes neither nets nor --data"),
    ],
)
def test_compare_takes_two_nets_or_all(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["compare", *EUCLIDEAN], ["compare", "--all"], ["bench"]])
@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_file_that_cannot_be_written_is_found_before_the_work(command, option, tmp_path, capsys, monkeypatch):
    def work(*_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("pylayers.nets.read", work)
    monkeypatch.setattr("pylayers.compare_all.compare_all", work)
    monkeypatch.setattr("pylayers.bench.bench", work)
    for path, reason in ((tmp_path / "no/x.png", "No such file or directory"), (tmp_path / "x.png", "it is a folder")):
        (tmp_path / "x.png").mkdir(exist_ok=True)
        assert cli.main([*command, option, str(path)]) == 2
        assert f"cannot write {path}: {reason}" in capsys.readouterr().err


def test_file_stays_as_it_was_where_the_command_fails(tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_text("before")
    assert cli.main(["compare", "missing.prototxt", EUCLIDEAN[1], "--json", str(path)]) == 2
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("missing", "option"), [("rich", None), ("matplotlib", "--plot")])
def test_missing_package_is_named_with_its_extra(missing, option, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    outputs = [option, str(tmp_path / "x.png")] if option else []
    assert cli.main(["compare", *EUCLIDEAN, *outputs]) == 2
    assert f"{missing} is not installed; pip install 'pylayers[plot]' brings it" in capsys.readouterr().err


def test_json_needs_no_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["compare", *EUCLIDEAN, "--json", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "x.json").stat().st_size > 1000


def test_json_goes_into_a_pipe():
    done = python("-m", "pylayers", "compare", *EUCLIDEAN, "--loss-weight", "1", "--json", "/dev/stdout")
    assert done.returncode == 0, done.stderr
    assert '"within_tolerance": true' in done.stdout
