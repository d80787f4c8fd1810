"""Each rule finds what it is for, at its line, and nothing in a net that is right."""

import os

import pytest
from harness import ROOT
from harness.doctor_nets import marked_line
from harness.doctor_tables import BROKEN, GOOD
from harness.examples import FOLDER, ids

from pylayers.caffe_nets import child
from pylayers.tools import doctor
from pylayers.tools.doctor import environment

FILES = sorted(FOLDER.glob("**/*.prototxt"))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.rule)
def test_finds(broken, examine, tmp_path):
    (finding,) = examine(broken.text, broken.gpu)
    assert (finding.rule, finding.severity) == (broken.rule, broken.severity)
    assert broken.found in finding.found
    assert broken.write in finding.write
    assert (finding.file, finding.line) == (str(tmp_path / "net.prototxt"), marked_line(broken.text))
    assert f'name: "{finding.layer}"' in broken.text


@pytest.mark.parametrize(("rule", "text"), GOOD, ids=[rule for rule, _ in GOOD])
def test_finds_nothing(rule, text, examine):
    assert examine(text, "0,1" if rule == "multi-gpu" else None) == []


# What these rules find ends a run of the net, but for parameters that change places: these do something else than they
# say. And what the rules let pass runs.
ENDS = (
    "module-import",
    "layer-class",
    "method-signature",
    "loss-weight-count",
    "label-gradient",
    "no-backward",
    "param-str",
)


def runs(text):
    """Whether Caffe can run a net forward and backward in phase TRAIN; it may end the process."""
    answer = child.ask("harness.nets", "run_in_phase_train", text, first=[str(ROOT / "tests")])
    return answer.status == 0


@pytest.mark.usefixtures("quick_children")
@pytest.mark.parametrize(
    "broken",
    [
        broken
        for broken in BROKEN
        if broken.severity == "error" and broken.rule in ENDS and "Swapped" not in broken.text
    ],
    ids=lambda broken: broken.rule,
)
def test_caffe_ends_with_what_is_found(broken):
    assert not runs(broken.text)


@pytest.mark.usefixtures("quick_children")
@pytest.mark.parametrize("text", [text for _, text in GOOD if "TRAIN" in text])
def test_caffe_runs_where_nothing_is_found(text):
    assert runs(text)


@pytest.mark.usefixtures("demo_data", "quick_children")
@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_the_kits_own_files_are_right(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "prototxt/own_loss"), prepend=os.pathsep)
    monkeypatch.setattr(environment, "check_caffe", lambda: ({}, []))
    findings = doctor.examine([str(path.relative_to(ROOT))]).findings
    # This one shows what a Reduction does.
    expected = ["reduction-axes"] if path.stem == "channel_sum_euclidean_loss_all_axes_builtin" else []
    assert [finding.rule for finding in findings] == expected
    assert "error" not in [finding.severity for finding in findings]
