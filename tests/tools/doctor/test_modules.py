"""Modules that cannot be imported, and what Caffe says when it builds a net."""

import os
import re

import pytest
from harness import ROOT
from harness.doctor_nets import DATA, NO_WEIGHT, PRED, SETTINGS, at, euclidean, marked_line, python

from pylayers.caffe_nets import child
from pylayers.caffe_nets.prototxt_lines import fields_of
from pylayers.tools import cli
from pylayers.tools.doctor import build, environment

# Modules that cannot be imported, or not everywhere.


@pytest.mark.parametrize(
    ("code", "found", "detail"),
    [
        ("import caffe\n1 / 0", "ZeroDivisionError: division by zero", 'my_losses.py", line 2, in <module>'),
        ("def x(:", "SyntaxError: invalid syntax", "my_losses.py"),
        ("import no_such_thing", "No module named 'no_such_thing'", "import no_such_thing"),
        ("print('a' * 100000)\nimport sys; sys.exit(7)", "SystemExit: 7", "sys.exit(7)"),
        ("import os; print('said', flush=True); os._exit(0)", "its import ends the process with status 0", "said"),
        ("import os; os.abort()", "its import ends the process with SIGABRT", ""),
        ("import time; time.sleep(60)", "its import does not come to an end within 2 s", ""),
    ],
)
def test_shows_why_a_module_is_not_imported(code, found, detail, examine_alone, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    if "sleep" in code:
        monkeypatch.setattr(child, "TIMEOUT", 2)
    (finding,) = examine_alone(euclidean(module="my_losses"))
    assert finding.rule == "module-import"
    assert found in finding.found
    assert detail in finding.detail
    assert "probe.py" not in finding.detail


def test_a_module_is_searched_where_caffe_does(examine_alone):
    """And not in the folder of the script that imports it."""
    assert (ROOT / "pylayers/tools/doctor/check.py").exists()
    (finding,) = examine_alone(euclidean(module="check"))
    assert "No module named 'check'" in finding.found


@pytest.mark.parametrize(
    ("file", "path"),
    [("my_losses.py", "."), ("nets/my_losses/__init__.py", "nets"), ("nets/py/a/my_losses.py", "nets/py/a")],
    ids=["here", "beside the net", "below the net"],
)
@pytest.mark.usefixtures("quick_children")
def test_a_module_off_pythons_path(file, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / file).write_text("from user_losses import L1LossLayer")
    text = at(DATA + PRED + python("L1LossLayer", "my_losses"), "module:")
    (tmp_path / "nets/net.prototxt").write_text(text)
    assert cli.main(["doctor", "nets/net.prototxt"]) == 1
    out = capsys.readouterr().out
    assert f"nets/net.prototxt:{marked_line(text)}: error: layer" in out
    assert f"write: PYTHONPATH={path} in the environment" in out
    assert "[module-path]\n" in out
    assert out.endswith("1 error, 0 warnings\n")  # the class is looked at all the same

    monkeypatch.setenv("PYTHONPATH", path, prepend=os.pathsep)
    assert cli.main(["doctor", "nets/net.prototxt"]) == 0


def test_a_module_beside_the_net_that_is_called_pylayers(examine, tmp_path):
    """The kit is found in its place."""
    (tmp_path / "pylayers.py").write_text("")
    place = os.path.relpath(tmp_path)
    (finding,) = examine(DATA + PRED + python("MyLossLayer"))
    assert finding.rule == "layer-class"
    assert finding.found == "the module pylayers has no MyLossLayer; it is the kit, and not the one in " + place
    expected = f'another name for {place}/pylayers, such as my_layers, and module: "my_layers" with PYTHONPATH={place}'
    assert finding.write == expected


@pytest.mark.parametrize("colon", [":", ""])
def test_lines_of_fields(colon):
    text = """# layer {
name: "layer { }" layer { name: "a"
  python_param < module: 'b'
    layer: "c" > }
layer: [ { name: "d" },
  { type: "e"
    param { lr_mult: 0 } param {
      decay_mult: 0 } } ]
""".replace("layer: [", f"layer{colon} [")
    layers = fields_of(text).all("layer")
    assert [layer.line for layer in layers] == [2, 5, 6]
    assert layers[0].line_of("python_param", "layer") == 4
    assert layers[0].line_of("python_param", "param_str") == 3
    assert layers[0].line_of("loss_weight") == 2
    assert layers[1].line_of("name") == 5
    assert [param.line for param in layers[2].all("param")] == [7, 7]
    assert layers[2].all("param")[1].line_of("decay_mult") == 8


def test_a_list_of_layers_without_a_colon(examine):
    net = re.sub(r"^layer (?=\{)", ", ", NO_WEIGHT, flags=re.MULTILINE).removeprefix(",")
    (finding,) = examine(f"layer [{net}]")
    assert (finding.rule, finding.line) == ("loss-weight", 5)


# What Caffe says itself.

NO_MORE = euclidean()


@pytest.mark.parametrize(
    ("text", "layer", "found", "more"),
    [
        (
            euclidean().replace("num_output: 3", "num_output: 2"),
            "loss",
            'Caffe cannot build the net: EuclideanLossLayer "loss": bottom[1] (target) has shape',
            "",
        ),
        (
            DATA + PRED + python("RaisingLayer", "doctor_layers"),
            "loss",
            "RuntimeError: raised in setup",
            'doctor_layers.py", line',
        ),
        (
            euclidean().replace('"pred"', '"loss"') + 'layer { name: "again" type: "Concat" bottom: "gone" top: "x" }',
            "again",
            "Unknown bottom blob 'gone'",
            "",
        ),
    ],
)
def test_says_what_caffe_says(text, layer, found, more, examine_alone):
    (finding,) = examine_alone(text)
    assert finding.rule == "build"
    assert found in finding.found
    assert finding.layer == layer
    starts = [number for number, line in enumerate(text.splitlines(), 1) if f'name: "{layer}"' in line]
    assert [finding.line] == starts
    assert more in finding.write + finding.detail
    assert "EuclideanLossLayer" not in found or not finding.detail


@pytest.mark.parametrize(
    ("text", "layer", "found", "write"),
    [
        (euclidean().replace('bottom: "data"', 'bottom: "dta"'), "pred", "blob 'dta'", 'bottom: "data"'),
        (
            NO_MORE.replace('"pred" bottom', '"prde" bottom'),
            "loss",
            "Unknown bottom blob 'prde'",
            'bottom: "pred"',
        ),
        (DATA + euclidean().split(DATA)[1].replace('bottom: "data"', 'bottom: "loss"'), "pred", "'loss'", "above this"),
        (
            NO_MORE.replace('top: "pred"', 'top: "pred" include { phase: TEST }'),
            "loss",
            "Unknown bottom blob 'pred'",
            "is made in the other phase alone",
        ),
    ],
)
def test_names_the_blob_that_is_meant(text, layer, found, write, examine):
    (finding,) = examine(text)
    assert (finding.rule, finding.layer) == ("build", layer)
    assert found in finding.found
    assert write in finding.write


CAUSE = (
    "\n\nThe above exception was the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
)


@pytest.mark.parametrize(
    ("layer", "found", "parts"),
    [
        ("RaisingLayer", "RuntimeError: raised in setup", ["\nRuntimeError: raised in setup"]),
        ("ChainingLayer", "RuntimeError: two lines:", ["\nKeyError: 'no such key'" + CAUSE, "two lines:\nthe second"]),
        (
            "RaisingInitLayer",
            "RuntimeError: raised in __init__",
            ["\nKeyError: 'no such key'" + CAUSE, "\nRuntimeError: raised in __init__"],
        ),
        ("ExitingLayer", "SystemExit: enough", ["\nSystemExit: enough"]),
    ],
)
def test_shows_the_traceback_of_the_users_code(layer, found, parts, examine_alone):
    """All of it, from the layer's first line on: not the lines of the probe that builds the net."""
    (finding,) = examine_alone(DATA + PRED + python(layer, "doctor_layers"))
    assert (finding.rule, finding.layer) == ("build", "loss")
    assert finding.found == f"Caffe cannot build the net: {found}"
    first, second = finding.detail.splitlines()[:2]
    assert first == "Traceback (most recent call last):"
    assert re.match(r'  File ".*/doctor_layers\.py", line \d+, in (setup|__init__)', second)
    assert "probe.py" not in finding.detail
    for part in parts:
        assert part in finding.detail


def test_a_layer_that_hangs(examine, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom doctor_layers import GoodLayer\n"
        "class SlowLayer(GoodLayer):\n    def setup(self, bottom, top):\n        time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def ask_briefly(*arguments, **more):
        monkeypatch.setattr(child, "TIMEOUT", 1)
        return environment.ask(*arguments, **more)

    monkeypatch.setattr(build, "ask", ask_briefly)
    (finding,) = examine(DATA + PRED + python("SlowLayer", "slow"))
    assert finding.rule == "build"
    assert "does not come to an end within 1 s" in finding.found


def test_the_format_before_2014(examine):
    text = """\
input: "data" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 4
layers { name: "loss" type: EUCLIDEAN_LOSS bottom: "data" bottom: "data" top: "loss" }
"""
    (finding,) = examine(text)
    assert (finding.rule, finding.severity, finding.line) == ("old-format", "warning", 2)
    (finding,) = examine(f"{SETTINGS} net_param {{\n{text}}}")
    assert (finding.rule, finding.line) == ("old-format", 3)
    assert [finding.rule for finding in examine(text.replace("EUCLIDEAN_LOSS", "ACCURACY"))] == ["build", "old-format"]


def test_a_net_leaves_its_output_file_alone(examine, tmp_path):
    (tmp_path / "out.h5").write_text("precious")
    text = 'layer { name: "out" type: "HDF5Output" bottom: "pred" bottom: "label" '
    text += f'hdf5_output_param {{ file_name: "{tmp_path}/out.h5" }} }}'
    assert examine(euclidean() + text) == []
    assert (tmp_path / "out.h5").read_text() == "precious"
