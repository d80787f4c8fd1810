"""Which nets and phases a file stands for, and a solver's settings."""

import os
import re

import pytest
from harness.doctor_nets import (
    COST,
    DATA,
    NO_WEIGHT,
    PRED,
    REAL_LOSS,
    RIGHT,
    SETTINGS,
    TEST_NET,
    ZEROS,
    euclidean,
    fixed,
    python,
)

from pylayers.tools import doctor

# Which nets and phases.


@pytest.mark.parametrize(("phase", "other"), [("TRAIN", "TEST"), ("TEST", "TRAIN")])
def test_a_net_is_checked_in_both_phases_where_it_is_whole_in_both(phase, other, examine):
    text = DATA.replace("include { phase: TRAIN }", "")
    for outputs, included in ((3, phase), (0, other)):
        text += PRED.replace("num_output: 3", f"num_output: {outputs}").replace(
            '"Convolution"', f'"Convolution" include {{ phase: {included} }}'
        )
    (finding,) = examine(text + python("EuclideanLossLayer"))
    assert re.search(rf"Caffe says: Check failed: .*, in phase {other}$", finding.found)
    both = text.replace(f"include {{ phase: {other} }}", "").split('layer { name: "pred"')
    (finding,) = examine(f'{both[0]}layer {{ name: "pred"{both[2]}{python("EuclideanLossLayer")}')
    assert "Caffe says: Check failed: " in finding.found
    assert "in phase" not in finding.found


def test_what_is_wrong_in_both_phases_is_said_once(examine):
    text = euclidean(module="no_such_module").replace("include { phase: TRAIN }", "")
    assert len(examine(text)) == 1


@pytest.mark.parametrize(
    ("text", "file", "line"),
    [
        ('net: "nets/good.prototxt"', None, None),
        ('net: "nets/bad.prototxt"', "nets/bad.prototxt", 5),
        ('train_net: "nets/bad.prototxt"', "nets/bad.prototxt", 5),
        (f"# a line\nnet_param {{\n{NO_WEIGHT}}}", "net.prototxt", 7),
        ('train_net: "nets/good.prototxt" test_net: "nets/test.prototxt" test_iter: 1 test_interval: 1', None, None),
        (
            'train_net: "nets/good.prototxt" test_net: "nets/no_type.prototxt" test_iter: 1 test_interval: 1',
            "nets/no_type.prototxt",
            1,
        ),
        ('net: "nets/staged.prototxt" train_state { stage: "a" }', "nets/staged.prototxt", 6),
        ('net: "nets/staged.prototxt" train_state { stage: "b" }', None, None),
    ],
)
def test_follows_a_solver_to_its_nets(text, file, line, solver):
    staged = "\n" + NO_WEIGHT.replace('name: "loss"', 'name: "loss" include { stage: "a" }')
    staged += REAL_LOSS.replace('type: "', 'include { stage: "b" } type: "')
    no_type = TEST_NET.replace('"DummyData"', '"NoType"')
    findings = solver(text, good=euclidean(), bad=NO_WEIGHT, test=TEST_NET, no_type=no_type, staged=staged)
    found = [(os.path.relpath(finding.file), finding.line) for finding in findings]
    assert found == ([(file, line)] if file else [])


@pytest.mark.parametrize(
    ("net", "rule", "severity", "line"),
    [
        (COST, "no-loss", "error", 5),
        (COST.replace("include { phase: TRAIN }", ""), "no-loss", "error", 5),
        (DATA + PRED, "no-loss", "error", 1),
        (
            DATA + PRED + 'layer { name: "x" type: "Power" bottom: "pred" top: "x" loss_weight: 0 }',
            "no-loss",
            "warning",
            1,
        ),
        (euclidean(more="loss_weight: 0"), "no-loss", "warning", 5),
        (COST.replace('"cost"', '"my_loss"'), "loss-weight", "error", 5),
        (COST.replace('"cost"', '"my_loss"') + REAL_LOSS, "loss-weight", "warning", 5),
        (NO_WEIGHT, "loss-weight", "error", 5),
    ],
)
def test_a_solvers_net_without_a_loss(net, rule, severity, line, solver):
    """Said once, and an error: a net by itself may be meant for something else, this one is trained."""
    (finding,) = solver('net: "nets/net.prototxt"', net=net)
    assert (finding.rule, finding.severity, finding.line) == (rule, severity, line)


def test_a_net_in_which_nothing_learns(solver):
    frozen = euclidean().replace('"Convolution"', '"Convolution" param { lr_mult: 0 } param { lr_mult: 0 }')
    (finding,) = solver('net: "nets/net.prototxt"', net=frozen)
    assert (finding.rule, finding.severity, finding.layer) == ("nothing-learns", "warning", "loss")
    thawed = frozen.replace("lr_mult: 0 }", "lr_mult: 1 }", 1)
    assert solver('net: "nets/net.prototxt"', net=thawed) == []
    own = frozen.replace("EuclideanLossLayer", "GoodLayer").replace("pylayers", "doctor_layers")
    assert [finding.rule for finding in solver('net: "nets/net.prototxt"', net=own)] == []  # it may have parameters


def test_a_test_net_needs_no_loss(solver):
    test = COST.replace("TRAIN", "TEST")
    assert (
        solver(
            'train_net: "nets/a.prototxt" test_net: "nets/b.prototxt" test_iter: 1 test_interval: 1',
            a=euclidean(),
            b=test,
        )
        == []
    )


def test_a_net_is_tested_as_often_as_the_solver_says(solver):
    both = euclidean().replace("include { phase: TRAIN }", "")
    both += 'layer { name: "no" type: "NoType" bottom: "pred" top: "no" include { phase: TEST stage: "b" } }'
    text = 'net: "nets/both.prototxt" test_iter: 1 test_interval: 1 test_state { stage: "a" } '
    assert solver(text, both=both) == []
    (finding,) = solver(f'{text} test_iter: 1 test_state {{ stage: "b" }}')
    assert finding.found.endswith('layer type "NoType"')


@pytest.mark.parametrize(
    ("settings", "severity", "found", "write"),
    [
        (
            "base_lr: 0.1 max_iter: 1",
            "error",
            "no lr_policy: caffe train ends in the first iteration",
            'lr_policy: "fixed"',
        ),
        (
            'base_lr: 0.1 lr_policy: "stepp" max_iter: 1',
            "error",
            'lr_policy "stepp", which Caffe does not know',
            '"step" (of',
        ),
        ('base_lr: 0.1 lr_policy: "step" max_iter: 1', "error", "needs a stepsize, found 0", "stepsize: "),
        ('lr_policy: "fixed" max_iter: 1', "warning", "base_lr is 0: nothing learns", "base_lr: "),
        (f'{RIGHT} type: "Adamm"', "error", 'type "Adamm", which', 'type: "Adam" (of SGD, '),
        (
            f"{RIGHT} test_iter: 1",
            "error",
            "a test net needs a test_interval, found 0",
            "test_interval: ",
        ),
        (
            f'{RIGHT} snapshot: 10 snapshot_prefix: "no/such"',
            "error",
            "no folder no, so caffe train ends at the start",
            "mkdir -p no, or",
        ),
        (
            f'{RIGHT} snapshot_prefix: "no/such"',
            "error",
            "ends at its end, and what was learnt is lost",
            "mkdir -p no, or",
        ),
        (f'{RIGHT} type: "ADAM"', "error", 'type "ADAM", which', 'type: "Adam" (of SGD, '),
        ('base_lr: 0.1 lr_policy: "Step" max_iter: 1', "error", 'lr_policy "Step", which', 'lr_policy: "step" (of'),
        (
            'base_lr: 0.1 lr_policy: "multistep" max_iter: 1',
            "warning",
            "without a stepvalue: the learning rate stays",
            "stepvalue: ",
        ),
        ('base_lr: 0.1 lr_policy: "fixed"', "warning", "no max_iter, which is then 0", "max_iter: 10000"),
        ('base_lr: 0.1 lr_policy: "fixed" max_iter: 0', "warning", "max_iter is 0: caffe train ends", "max_iter: "),
        (f"{RIGHT} test_interval: 5", "warning", "test_interval without test_iter: nothing is tested", "test_iter: "),
        (f"{RIGHT} momentum: 1", "warning", "momentum 1: what was learnt once never fades", "momentum: 0.9"),
        (
            f'{RIGHT} test_interval: 5 test_net: "nets/net.prototxt"',
            "error",
            "0 test_iter for 1 test nets: caffe train ends",
            "test_iter: 100, once",
        ),
        (f'{RIGHT} type: "AdaGrad" momentum: 0.9', "error", "momentum 0.9 with type AdaGrad", "momentum: 0"),
        (f'{RIGHT} type: "RMSProp" momentum: 0.9', "error", "momentum 0.9 with type RMSProp", "momentum: 0"),
        (f'{RIGHT} type: "RMSProp" rms_decay: 1', "error", "from 0 to below 1, found 1", "rms_decay: "),
        (f'{RIGHT} type: "RMSProp" rms_decay: -0.5', "error", "from 0 to below 1, found -0.5", "rms_decay: "),
        (f"{RIGHT} average_loss: 0", "error", "average_loss must be at least 1, found 0", "average_loss: 1"),
        (f"{RIGHT} iter_size: 0", "error", "iter_size must be at least 1, found 0", "iter_size: 1"),
        (f'{RIGHT} weight_decay: 1 regularization_type: "L3"', "error", 'regularization_type "L3"', '"L2", or "L1"'),
    ],
)
def test_a_solvers_settings(settings, severity, found, write, solver):
    both = euclidean().replace("include { phase: TRAIN }", "")
    (finding,) = solver('net: "nets/net.prototxt"\n', settings=settings, net=both)
    assert (finding.rule, finding.severity) == ("solver-settings", severity)
    # A field that is not there has no line of its own.
    has_line = r"stepp|Adamm|ADAM|Step|stepvalue|max_iter is 0|test_interval without"
    has_line += r"|folder|ends at its|momentum|rms_decay|from 0|average_loss|iter_size|L3"
    assert finding.line == (3 if re.search(has_line, found) else 1)
    assert found in finding.found
    assert write in finding.write


def test_a_folder_for_snapshots_that_this_user_may_not_write_to(solver, monkeypatch):
    """As in a container that mounts a folder of another user."""
    monkeypatch.setattr("os.access", lambda folder, mode: folder != ".")
    both = euclidean().replace("include { phase: TRAIN }", "")
    (finding,) = solver('net: "nets/net.prototxt"\n', settings=f'{RIGHT} snapshot_prefix: "a"', net=both)
    assert finding.found.startswith(f"user {os.getuid()} cannot write to the folder ., so caffe train ends")
    assert "docker run --user" in finding.write


@pytest.mark.parametrize(
    "settings",
    [
        'base_lr: 0.1 lr_policy: "step" max_iter: 1 stepsize: 5',
        f'{RIGHT} snapshot: 10 snapshot_prefix: "nets/snapshot"',
        f'{RIGHT} snapshot_prefix: "no/such" snapshot_after_train: false',
        'base_lr: 0.1 lr_policy: "poly" max_iter: 1 snapshot_prefix: "nets"',
        'base_lr: 0.1 lr_policy: "multistep" max_iter: 1 stepvalue: 5',
        f"{RIGHT} momentum: 0.999",
        f"{RIGHT} test_interval: 1 test_iter: 1",
        f'{RIGHT} type: "AdaGrad" momentum: 0',
        f'{RIGHT} type: "RMSProp" rms_decay: 0',
        f'{RIGHT} type: "Adam" momentum: 0.9 rms_decay: 1 average_loss: 1 iter_size: 1',
        f'{RIGHT} regularization_type: "L3"',
        f'{RIGHT} weight_decay: 1 regularization_type: "L1"',
    ],
)
def test_settings_that_are_right(settings, solver):
    assert (
        solver('net: "nets/net.prototxt"', settings=settings, net=euclidean().replace("include { phase: TRAIN }", ""))
        == []
    )


@pytest.mark.parametrize(
    ("text", "found", "write"),
    [
        ('\nnet: "good.prototxt"', "here, in ", 'net: "nets/good.prototxt", or run caffe from '),
        ('\nnet: "models/good.prototxt"', "but there is nets/good.prototxt", 'net: "nets/good.prototxt"'),
        ('\nnet: "deep.prototxt"', "but there is nets/a/b/deep.prototxt", 'net: "nets/a/b/deep.prototxt"'),
        ('\nnet: "no.prototxt"', "there is no no.prototxt", 'net: "the path of the net, from here"'),
        ("", "takes one train net, found none", 'net: "..."'),
        ('net: "nets/good.prototxt" train_net: "x"', "found ['net', 'train_net']", ""),
    ],
)
def test_a_solver_without_its_net(text, found, write, solver, tmp_path, monkeypatch):
    solver('net: "nets/good.prototxt"', good=euclidean())
    (tmp_path / "nets/a/b").mkdir(parents=True)
    (tmp_path / "nets/a/b/deep.prototxt").write_text("")
    (tmp_path / "nets/solver.prototxt").write_text(f"{text}\n{SETTINGS}\n")
    (finding,) = doctor.examine(["nets/solver.prototxt"]).findings
    assert (finding.rule, finding.file) == ("solver-net", "nets/solver.prototxt")
    assert found in finding.found
    assert write in finding.write
    assert finding.line == (2 if text.startswith("\n") else 1)


def test_a_file_of_weights_may_hold_the_fixed_convolution(solver):
    net = fixed(ZEROS)
    (finding,) = solver('net: "nets/fixed.prototxt" weights: "x.caffemodel"', fixed=net)
    assert (finding.rule, finding.severity) == ("fixed-convolution-zero", "warning")
