"""What the command prints and writes."""

import json
import re

import pytest
from harness import ROOT
from harness.doctor_nets import DATA, NO_WEIGHT, PRED, python
from harness.doctor_runs import SHOWN
from harness.doctor_tables import BROKEN, CUPYS, ENVIRONMENTS, GOOD

from pylayers.tools import cli
from pylayers.tools.doctor import check  # noqa: F401, it registers the rules
from pylayers.tools.doctor.finding import RULES


def test_every_rule_is_tested():
    tables = {broken.rule for broken in BROKEN}, {rule for rule, *_ in ENVIRONMENTS}, {rule for rule, *_ in CUPYS}
    tables = (*tables, {run.rule for run in SHOWN}, {"run-limit"})
    # Each of these has a test of its own above.
    alone = {"python-layers", "cpu-only-caffe", "gpu-device", "module-path", "build", "old-format"}
    alone |= {"solver-net", "solver-settings", "nothing-learns", "data-source", "kit-shadowed", "old-pycaffe"}
    assert set.union(*tables, alone) == RULES.keys()
    assert {rule for rule, _ in GOOD} == {name for name, rule in RULES.items() if rule.check} - alone


@pytest.mark.usefixtures("quick_children")
def test_prints_and_writes_what_it_finds(tmp_path, capsys):
    (tmp_path / "net.prototxt").write_text(NO_WEIGHT)
    assert cli.main(["doctor", str(tmp_path / "net.prototxt"), "--json", str(tmp_path / "x.json")]) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        f'{tmp_path}/net.prototxt:5: error: layer "loss": a Python layer without loss_weight is no loss to Caffe: it '
        "trains nothing [loss-weight]",
        "    write: loss_weight: 1 in the layer, or loss_weight: 0 where that is meant",
        "1 error, 0 warnings",
    ]
    result = json.loads((tmp_path / "x.json").read_text())
    assert (result["errors"], result["warnings"]) == (1, 0)
    assert result["environment"]["python_layers"] is True
    (finding,) = result["findings"]
    assert (finding["rule"], finding["line"], finding["layer"]) == ("loss-weight", 5, "loss")


@pytest.mark.usefixtures("quick_children")
def test_the_readme_shows_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(DATA + PRED + python("EuclideanLoss", more=""))
    assert cli.main(["doctor", "net.prototxt"]) == 1
    _, printed = capsys.readouterr().out.split("\n", 1)
    shown = (ROOT / "docs/troubleshooting.md").read_text()
    assert re.sub(r":\d+:", ":N:", printed) in re.sub(r":\d+:", ":N:", shown)


@pytest.mark.usefixtures("quick_children")
def test_a_warning_alone_ends_with_status_0(capsys):
    assert cli.main(["doctor", "prototxt/channel_sum_euclidean_loss_all_axes_builtin.prototxt"]) == 0
    assert "0 errors, 1 warning\n" in capsys.readouterr().out


@pytest.mark.usefixtures("quick_children")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read net.prototxt: No such file or directory"),
        ("", "net.prototxt is no net and no solver: it has no layer"),
        ("\nlayer { name: 'x'\n\n", "net.prototxt:2: the { of line 2 is never closed: a } is missing"),
        (
            "layer { name: 'x'\n\nlayer { name: 'y' } ",
            "net.prototxt:1: the layer that begins in line 1 lacks a } before that of line 3",
        ),
        ("\nlayer { name: 'x' } }", "net.prototxt:2: a } too many"),
        ("layer }", "net.prototxt:1: "),
        ('base_lr: 0.1\nnet: "net.prototxt"', "net.prototxt is no net: it has no layer"),
        ("base_lr: 0.1\nmomentum: much", "net.prototxt:2: 'momentum: much': Couldn't parse float: much"),
        ("\ufeff\x00", "net.prototxt:1: "),
    ],
)
def test_refuses_a_file_in_one_line(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "net.prototxt").write_text(text)
    assert cli.main(["doctor", "net.prototxt", "--json", "x.json"]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"pylayers doctor: {message}")
    assert printed.out == ""
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("value", ["", "0,", "a", "-1", "0 1"])
def test_refuses_gpus_in_one_line(value, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["doctor", f"--gpu={value}"])
    assert "argument --gpu: must be GPU numbers, such as 0 or 0,1, or all" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_children")
def test_several_files_in_one_call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.prototxt").write_text(NO_WEIGHT)
    (tmp_path / "b.prototxt").write_text(NO_WEIGHT.replace('"data"', '"input"'))
    (tmp_path / "c.prototxt").write_text("layer }")
    assert cli.main(["doctor", "a.prototxt", "b.prototxt", "a.prototxt"]) == 1
    printed = capsys.readouterr()
    assert re.findall(r"^(\w)\.prototxt:5: error", printed.out, re.MULTILINE) == ["a", "b"]
    assert "\n2 errors, 0 warnings\n" in printed.out
    # What cannot be read keeps none of the others from being checked.
    assert cli.main(["doctor", "c.prototxt", "gone.prototxt", "b.prototxt", "--json", "x.json"]) == 2
    printed = capsys.readouterr()
    assert "b.prototxt:5: error" in printed.out
    lines = printed.err.splitlines()
    assert [line.startswith("pylayers doctor: ") for line in lines] == [True, True]
    assert "gone.prototxt: No such file" in lines[0]
    assert lines[1].startswith("pylayers doctor: c.prototxt:1: ")
    assert len(json.loads((tmp_path / "x.json").read_text())["refused"]) == 2


@pytest.mark.usefixtures("quick_children")
def test_what_is_the_same_in_many_lines_is_printed_once(tmp_path, capsys):
    layers = "".join(
        f'layer {{ name: "bn{index}" type: "BN" bottom: "data" top: "bn{index}" }}\n' for index in range(30)
    )
    (tmp_path / "net.prototxt").write_text(DATA.replace("include { phase: TRAIN }", "") + layers)
    assert cli.main(["doctor", str(tmp_path / "net.prototxt")]) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    assert 'layer "bn0": this Caffe has no layer type "BN"' in lines[0]
    assert lines[2].startswith("    the same in 29 more lines: 4, 5, 6, ")
    assert max(map(len, lines[2:])) <= 100
    assert lines[-1] == "30 errors, 0 warnings"
