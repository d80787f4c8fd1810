"""The command line: what it takes, what it refuses, and that a mistake ends in one line."""

import os
import re
import subprocess
import sys

import pytest
from harness import ROOT

from pylayers.tools import cli

EUCLIDEAN = ["prototxt/euclidean_loss.prototxt", "prototxt/euclidean_loss_builtin.prototxt"]

pytestmark = pytest.mark.usefixtures("quick_children")


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
    # A Caffe for CUDA has errors to log where there is no GPU.
    assert [
        line for line in done.stderr.splitlines() if not re.match(r"E.* common.cpp|WARNING: Logging before", line)
    ] == []
    assert "\x1b" not in done.stdout


def test_a_net_that_ends_the_process_ends_in_one_line(tmp_path):
    (tmp_path / "net.prototxt").write_text((ROOT / EUCLIDEAN[0]).read_text().replace("InnerProduct", "NoSuchType"))
    done = python("-m", "pylayers", "compare", str(tmp_path / "net.prototxt"), EUCLIDEAN[1])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Unknown layer type: NoSuchType" in done.stderr


def test_import_of_the_package_gives_the_layers_alone():
    done = python("-c", "import sys, pylayers; print([m for m in ('rich', 'pylayers.tools.cli') if m in sys.modules])")
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["compare", "bench", "check-gradient", "doctor", "plot-log", "class-weights"])
def test_help_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"example:\n  pylayers {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [[], *([name] for name, _, _ in cli.COMMANDS)], ids=lambda command: " ".join(command)
)
def test_help_needs_no_caffe(command, tmp_path):
    (tmp_path / "caffe.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = python("-m", "pylayers", *command, "--help", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: pylayers" in done.stdout


def test_the_table_of_commands_is_short():
    """A command is a module of its own."""
    assert len((ROOT / "pylayers/tools/cli.py").read_text().splitlines()) <= 80


def test_help_of_doctor_says_what_the_readme_does(capsys):
    """What `pylayers doctor` looks at without a file; CuPy is not among it."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["doctor", "--help"])
    looks_at = "# Caffe, its Python module, protobuf, NumPy\n"
    assert looks_at in capsys.readouterr().out
    assert looks_at in (ROOT / "README.md").read_text()


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

    monkeypatch.setattr("pylayers.caffe_nets.read.read", work)
    monkeypatch.setattr("pylayers.tools.compare.all_layers.compare_all", work)
    monkeypatch.setattr("pylayers.tools.bench.cpu.bench", work)
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


def test_missing_package_is_named_with_its_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["compare", *EUCLIDEAN, "--plot", str(tmp_path / "x.png")]) == 2
    assert (
        "matplotlib is not installed; pip install '.[plot]' in the clone of pylayers brings it"
        in capsys.readouterr().err
    )


def test_json_needs_no_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["compare", *EUCLIDEAN, "--json", str(tmp_path / "x.json")]) == 0
    assert (tmp_path / "x.json").stat().st_size > 1000


def test_json_goes_into_a_pipe():
    done = python("-m", "pylayers", "compare", *EUCLIDEAN, "--loss-weight", "1", "--json", "/dev/stdout")
    assert done.returncode == 0, done.stderr
    assert '"within_tolerance": true' in done.stdout


def check_gradient(*arguments):
    return cli.main(["check-gradient", *arguments])


def test_check_gradient_of_a_python_layer(capsys):
    arguments = ["pylayers:WeightedSoftmaxLossLayer", "--bottom", "4,10", "--bottom", "4", "--labels", "1:10"]
    assert check_gradient(*arguments, "--param-str", '{"ignore_label": 3}', "--loss-weight", "0.3") == 0
    assert capsys.readouterr().out.startswith("ok     bottom[0]: 40 checked; largest difference ")


def test_check_gradient_of_a_wrong_layer(capsys):
    assert check_gradient("wrong_losses:WrongSignLayer", "--bottom", "5,4", "--bottom", "5,4") == 1
    assert capsys.readouterr().out.startswith("WRONG  bottom[0]: 20 checked; largest difference ")


def test_check_gradient_of_a_builtin_layer(capsys):
    params = "inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }"
    assert check_gradient("InnerProduct", "--bottom", "4,10", "--params", params) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "ok     bottom[0]",
        "ok     blobs[0]",
        "ok     blobs[1]",
    ]


def test_check_gradient_of_a_builtin_layer_at_its_kink():
    assert check_gradient("ReLU", "--bottom", "30,40") == 0
    assert check_gradient("ReLU", "--bottom", "30,40", "--kink", "0", "--kink-range", "0.05") == 0


@pytest.mark.parametrize(
    ("net", "layer", "constants"),
    [
        ("euclidean_loss", "loss", []),
        ("weighted_softmax_loss", "loss", []),
        ("weighted_softmax_loss_builtin", "loss", []),
        ("channel_sum_euclidean_loss", "pred", []),
    ],
)
def test_check_gradient_of_a_layer_in_a_net(net, layer, constants):
    assert check_gradient("--net", f"prototxt/{net}.prototxt", "--layer", layer, "--phase", "train", *constants) == 0


INPUTS_AND_LOSS = """
layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "loss" type: "Python" bottom: "a" bottom: "b" top: "loss" loss_weight: 1 python_param { %s } }"""


@pytest.mark.parametrize(
    ("param", "labels", "status"),
    [
        ('module: "wrong_losses" layer: "WrongSignLayer"', [], 1),
        ('module: "pylayers" layer: "EuclideanLossLayer"', [], 0),
        ('module: "pylayers" layer: "SigmoidCrossEntropyLossLayer"', ["--labels", "1:2"], 0),
    ],
)
def test_check_gradient_fills_the_inputs_of_a_net(param, labels, status, tmp_path):
    """They are zeros, of which a wrong sign, too, has the right gradient; and a sigmoid loss refuses other labels."""
    net = tmp_path / "net.prototxt"
    net.write_text(INPUTS_AND_LOSS % param)
    assert check_gradient("--net", str(net), "--layer", "loss", *labels) == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a layer, as module:Class or a type of Caffe's, or --net and --layer"),
        (
            ["EuclideanLoss", "--bottom", "4,5", "--bottom", "4,5", "--loss-weight", "0"],
            "nothing is proven: every derivative is 0",
        ),
        (["Python", "--bottom", "4,3"], "name a Python layer as module:Class"),
        (
            ["EuclideanLoss", "--bottom", "4,5", "--bottom", "4,5", "--constant", "0", "--constant", "1"],
            "pylayers check-gradient: nothing to check: each bottom is a label or a constant, and there is no ",
        ),
        (
            ["wrong_losses:AllConstantLayer", "--bottom", "4,5", "--bottom", "4,5"],
            "pylayers check-gradient: nothing to check: ",
        ),
        (
            ["--net", EUCLIDEAN[0], "--layer", "loss", "--bottom", "4,3"],
            "--net and --layer take the layer from the net",
        ),
        (
            ["--net", EUCLIDEAN[0], "--layer", "random_data"],
            'the layer "random_data" of prototxt/euclidean_loss.prototxt has no',
        ),
        (["pylayers:EuclideanLossLayer"], "give the shape of each bottom, such as --bottom 4,10"),
        (["pylayers:NoLayer", "--bottom", "4,10"], "the module pylayers has no NoLayer"),
        (["no_module:Layer", "--bottom", "4,10"], "cannot import no_module: No module named 'no_module'"),
        (
            ["NoType", "--bottom", "4,10"],
            "Caffe says: Check failed: registry.count(type) == 1 (0 vs. 1) Unknown layer type: NoType",
        ),
        (["pylayers:EuclideanLossLayer", "--bottom", "4,10"], "EuclideanLossLayer: takes 2 or 3 bottoms"),
        (["user_losses:LabelledLossLayer", "--bottom", "4,3", "--bottom", "4,3"], "(label) holds labels: give "),
        (["EuclideanLoss", "--bottom", "4,10", "--bottom", "4,9"], "Inputs must have the same dimension"),
        (["EuclideanLoss", "--bottom", "4,10", "--labels", "1:3"], "there is no bottom 1"),
        (["EuclideanLoss", "--bottom", "4,10", "--params", "typo: 1"], "no layer's prototxt text"),
        (["--net", "prototxt/no.prototxt", "--layer", "loss"], "cannot read prototxt/no.prototxt"),
        (
            ["--net", EUCLIDEAN[0], "--layer", "no"],
            'has no layer "no" in this phase; it has "random_data", "pred", "loss"',
        ),
        (["--net", EUCLIDEAN[0]], "give a layer, as module:Class"),
    ],
)
def test_check_gradient_refuses(arguments, message, capsys):
    if arguments[:1] == ["--net"]:
        arguments = [*arguments, "--phase", "train"]
    assert check_gradient(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "arguments", [["--bottom", "4,x"], ["--bottom", "4,0"], ["--labels", "1"], ["--labels", "1:0"]]
)
def test_check_gradient_refuses_values(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        check_gradient("EuclideanLoss", *arguments)
    assert f"argument {arguments[0]}: must be " in capsys.readouterr().err


LOG = "I1122 14:13:54 1 solver.cpp:239] Iteration 0 (0 iter/s), loss = 2.5\n"


def test_plot_log(tmp_path):
    (tmp_path / "caffe.log").write_text(LOG)
    files = [str(tmp_path / name) for name in ("caffe.log", "curves.png", "caffe.csv")]
    assert cli.main(["plot-log", files[0], "-o", files[1], "--csv", files[2]]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "caffe.csv").read_text().splitlines()[1] == f"0,0,train,0,smoothed_loss,2.5,,{files[0]}"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (LOG, [], "give -o FILE.png or --csv FILE"),
        ("no log", ["--csv", "out.csv"], "caffe.log is no log of Caffe's solver"),
        (None, ["--csv", "out.csv"], "cannot read caffe.log: No such file or directory"),
        (LOG, ["--csv", "no/such/folder/out.csv"], "cannot write no/such/folder/out.csv"),
    ],
)
def test_plot_log_refuses(text, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "caffe.log").write_text(text)
    assert cli.main(["plot-log", "caffe.log", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out.csv").exists()


def test_without_caffe_a_command_ends_in_one_line(tmp_path):
    (tmp_path / "caffe.py").write_text("raise ImportError('first line\\nsecond line')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for command in (["compare", *EUCLIDEAN], ["bench"], ["check-gradient", "ReLU", "--bottom", "3,4"]):
        done = python("-m", "pylayers", *command, PYTHONPATH=path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("pylayers")
        assert "cannot import Caffe (first line); pylayers doctor says what is wrong with it\n" in done.stderr
        assert done.stderr.count("\n") == 1


def test_plot_log_needs_no_caffe(tmp_path):
    (tmp_path / "caffe.py").write_text("raise ImportError")
    (tmp_path / "caffe.log").write_text(LOG)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = python("-m", "pylayers", "plot-log", str(tmp_path / "caffe.log"), "--csv", "/dev/null", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
