"""What a first run of a net shows, and what it says nothing of."""

import pytest
from harness.doctor_nets import marked_line
from harness.doctor_runs import SHOWN, SILENT, python

from pylayers.tools import cli


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.rule)
def test_shows(shown, examine, tmp_path):
    (finding,) = examine(shown.text, limit=60)
    assert (finding.rule, finding.severity) == (shown.rule, shown.severity)
    assert shown.found in finding.found
    assert shown.write in finding.write
    assert (finding.file, finding.line) == (str(tmp_path / "net.prototxt"), marked_line(shown.text))


@pytest.mark.parametrize("text", SILENT.values(), ids=list(SILENT))
def test_says_nothing(text, examine):
    assert examine(text, limit=60) == []


def test_an_exception_has_the_users_traceback_alone(examine):
    (finding,) = examine(python("RaisingForwardLayer"), limit=60)
    first, second = finding.detail.splitlines()[:2]
    assert first == "Traceback (most recent call last):"
    assert "run_layers.py" in second
    assert "try_net.py" not in finding.detail


def test_the_kits_own_error_is_one_line_with_the_layers_name(examine):
    text = python("OneGradientArrayLayer", module="user_losses")
    text = text.replace('"scores" top', '"scores" bottom: "target" top')
    (finding,) = examine(text, limit=60)
    assert finding.rule == "run-error"
    assert finding.found.startswith('OneGradientArrayLayer "loss": gradients ')
    assert finding.detail == ""


def test_a_run_that_takes_too_long(examine):
    (finding,) = examine(python("SlowLayer"), limit=1)
    assert (finding.rule, finding.severity, finding.layer) == ("run-limit", "warning", "loss")
    expected = "the first forward and backward take longer than 1 s; it was in forward of this layer then"
    assert finding.found == expected
    assert "--run-limit SECONDS" in finding.write


@pytest.mark.usefixtures("quick_children")
def test_no_run_leaves_it_out(tmp_path, capsys):
    (tmp_path / "net.prototxt").write_text(python("RaisingForwardLayer"))
    assert cli.main(["doctor", str(tmp_path / "net.prototxt"), "--no-run"]) == 0
    assert cli.main(["doctor", str(tmp_path / "net.prototxt")]) == 1
    out = capsys.readouterr().out
    assert out.count("[run-error]") == 1


def test_a_solver_runs_its_nets(solver):
    (finding,) = solver('net: "nets/net.prototxt"', net=python("NanLayer"), limit=60)
    assert (finding.rule, finding.layer) == ("run-loss", "loss")
