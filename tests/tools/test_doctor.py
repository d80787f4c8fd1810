"""pylayers doctor: each rule finds what it is for, at its line, and nothing in a net that is right."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
from caffe._caffe import Blob
from harness import ROOT
from harness.examples import FOLDER, ids

from pylayers.caffe_nets import child
from pylayers.caffe_nets.child import Answer
from pylayers.caffe_nets.prototxt_lines import fields_of
from pylayers.layer import LossLayer
from pylayers.tools import cli, doctor
from pylayers.tools.doctor import build, environment, probe
from pylayers.tools.doctor.finding import RULES

FILES = sorted(FOLDER.glob("**/*.prototxt"))
CUDA = hasattr(Blob, "_gpu_data_ptr")

# A net for phase TRAIN alone. "# here" stands at the line that a finding must name.
DATA = """\
layer { name: "data" type: "DummyData" top: "data" top: "target" top: "label" include { phase: TRAIN }
  dummy_data_param { shape { dim: 4 dim: 3 dim: 2 dim: 2 } shape { dim: 4 dim: 3 dim: 2 dim: 2 } shape { dim: 4 } } }
"""
PRED = """\
layer { name: "pred" type: "Convolution" bottom: "data" top: "pred"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
"""
SCORES = """\
layer { name: "scores" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LABELLER = """\
layer { name: "teacher" type: "InnerProduct" bottom: "data" top: "given" inner_product_param { num_output: 1 } }
"""
VOTES = """\
layer { name: "teacher" type: "InnerProduct" bottom: "data" top: "votes" inner_product_param { num_output: 5 } }
"""
ARGMAX = """\
layer { name: "label" type: "ArgMax" bottom: "votes" top: "given"  # here
  argmax_param { axis: 1 } }
"""


def python(layer, module="pylayers", more="loss_weight: 1", bottoms=("pred", "target"), name="loss"):
    """A Python layer over several lines, all of them but `more` marked."""
    taken = " ".join(f'bottom: "{bottom}"' for bottom in bottoms)
    return f"""\
layer {{ name: "{name}" type: "Python"
  {taken} top: "{name}" {more}
  python_param {{
    module: "{module}"
    layer: "{layer}"
  }}
}}
"""


def euclidean(**more):
    return DATA + PRED + python("EuclideanLossLayer", **more)


def softmax(labels, more="", kind='"Python" python_param { module: "pylayers" layer: "WeightedSoftmaxLossLayer" }'):
    return (
        DATA
        + SCORES
        + labels
        + f"""\
layer {{ name: "loss" top: "loss" loss_weight: 1 {more} type: {kind}
  bottom: "scores" bottom: "given"  }}
"""
    )


def fixed(convolution, param="param { lr_mult: 0 decay_mult: 0 }", loss="EuclideanLoss"):
    """A channel sum by a 1×1 convolution before a loss."""
    return f"""{DATA}{PRED}\
layer {{ name: "sum" type: "Convolution" bottom: "pred" top: "sum"
  {param}
  convolution_param {{
    num_output: 1 kernel_size: 1
    {convolution}
  }}
}}
layer {{ name: "target_sum" type: "Slice" bottom: "target" top: "one" top: "two"
  slice_param {{ axis: 1 slice_point: 1 }} }}
layer {{ name: "silence" type: "Silence" bottom: "two" }}
layer {{ name: "loss" type: "{loss}" bottom: "sum" bottom: "one" top: "loss" }}
"""


def reduction(axis, shapes="dim: 4 dim: 3 dim: 2 dim: 2", loss="EuclideanLoss"):
    return f"""\
layer {{ name: "data" type: "DummyData" top: "a" top: "b" include {{ phase: TRAIN }}
  dummy_data_param {{ shape {{ {shapes} }} shape {{ {shapes} }} }} }}
layer {{ name: "sum_a" type: "Reduction" bottom: "a" top: "sum_a"
  reduction_param {{
    axis: {axis}  # here
  }} }}
layer {{ name: "sum_b" type: "Reduction" bottom: "b" top: "sum_b" reduction_param {{ axis: {axis} }} }}
layer {{ name: "silence" type: "Silence" bottom: "sum_b" }}
layer {{ name: "copy" type: "Power" bottom: "sum_a" top: "copy" }}
layer {{ name: "loss" type: "{loss}" bottom: "{"sum_a"}" bottom: "copy" top: "loss" }}
"""


def at(text, line):
    """`text` with the mark at the first line that begins with the pattern `line`."""
    marked, count = re.subn(rf"^( *{line}.*)$", r"\1  # here", text, count=1, flags=re.MULTILINE)
    assert count == 1
    return marked


def with_param_str(text, param_str):
    return re.sub(r"\n  }\n", rf"\n    param_str: '{param_str}'\n  }}\n", text)


LOSS = 'layer { name: "loss"'
CHECK_SHAPES = f"def check_shapes({', '.join(inspect.signature(LossLayer.check_shapes).parameters)}):"
ONES = 'weight_filler { type: "constant" value: 1 }'
ZEROS = 'bias_term: false weight_filler { type: "constant" }'
TWO_TOPS = softmax("").replace('"given"', '"label"').replace('top: "loss"', 'top: "loss" top: "prob"')
FROZEN_VOTES = VOTES.replace("}\n", "param { lr_mult: 0 } param { lr_mult: 0 } }\n")
FROZEN_LABELLER = LABELLER.replace("}\n", "param { lr_mult: 0 } param { lr_mult: 0 } }\n")


SCALED = 'layer { name: "scaled" type: "Power" bottom: "loss" top: "scaled" }\n'
SILENCE = 'layer { name: "silence" type: "Silence" bottom: "loss" }\n'
REAL_LOSS = 'layer { name: "real" type: "EuclideanLoss" bottom: "pred" bottom: "target" top: "real" }\n'
# A loss, and nothing in its names that says so.
COST = DATA + PRED + python("GoodLayer", "doctor_layers", more="", name="cost")


TWO_COSTS = COST.replace("GoodLayer", "TwoTopsLayer").replace('top: "cost"', 'top: "cost" top: "more"')


class Broken(NamedTuple):
    """A net that breaks one rule, and no other."""

    rule: str
    text: str
    found: str
    write: str = ""
    severity: str = "error"
    gpu: str = None


def signature(layer, found, write):
    net = at(DATA + PRED + python(layer, "doctor_layers"), "layer: ")
    return Broken("method-signature", net, found, write)


BROKEN = [
    Broken(
        "module-import",
        at(euclidean(module="no_such_module"), "module:"),
        "the module 'no_such_module' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    Broken("module-import", at(euclidean(module=""), "module:"), "names no module", 'module: "pylayers"'),
    Broken(
        "layer-class",
        at(DATA + PRED + python("EuclideanLoss"), "layer: "),
        "the module pylayers has no EuclideanLoss",
        'layer: "EuclideanLossLayer"',
    ),
    Broken("layer-class", at(DATA + PRED + python("Xyz"), "layer: "), "has no Xyz", "it has ChannelSumEuclideanLoss"),
    Broken(
        "layer-class",
        at(DATA + PRED + python("NoLayer", "doctor_layers"), "layer: "),
        "NoLayer of doctor_layers is no subclass of caffe.Layer",
        "class NoLayer(caffe.Layer):",
    ),
    signature("NoSetupLayer", "doctor_layers.NoSetupLayer has no method setup", "def setup(self, bottom, top):"),
    signature("NoReshapeLayer", "has no method reshape", "def reshape(self, bottom, top):"),
    signature("NoForwardLayer", "has no method forward", "def forward(self, bottom, top):"),
    signature("NoBackwardLayer", "no method backward", "def backward(self, top, propagate_down, bottom):"),
    signature(
        "SwappedBackwardLayer",
        "has backward(self, bottom, propagate_down, top) at ",
        "def backward(self, top, propagate_down, bottom):",
    ),
    signature("SwappedForwardLayer", "has forward(self, top, bottom) at ", "def forward(self, bottom, top):"),
    signature("NoSelfLayer", "has setup(bottom, top) at ", "def setup(self, bottom, top):"),
    signature("TwoParametersLayer", "Caffe calls it with top, propagate_down, bottom", "def backward(self, top,"),
    signature("NoFormulaLayer", "has no method forward_cpu", "def forward_cpu(self, bottom, top):"),
    signature(
        "SwappedFormulaLayer",
        "has backward_cpu(self, bottom, propagate_down, loss_weight) at ",
        "def backward_cpu(self, loss_weight, propagate_down, bottom):",
    ),
    signature("NoGradientsLayer", "NoGradientsLayer has no method gradients", "def gradients(self, xp, pred, target):"),
    signature("NoLossLayer", "NoLossLayer has no method loss", "def loss(self, xp, pred, target):"),
    signature(
        "SwappedLossLayer",
        "; ArrayLossLayer calls it with xp, pred, target, weight=None",
        "def loss(self, xp, pred, target, weight=None):",
    ),
    signature("NoXpLayer", "has gradients(self, pred, target, weight=None) at ", "def gradients(self, xp, pred, "),
    signature("NoTargetLayer", "has gradients(self, xp, pred) at ", "def gradients(self, xp, pred, target, "),
    signature("WrongShapesLayer", "has check_shapes(self, one, two, three) at ", CHECK_SHAPES),
    Broken("loss-weight", at(euclidean(more=""), LOSS), "it trains nothing", "loss_weight: 1 in the layer"),
    Broken(
        "loss-weight",
        at(TWO_TOPS.replace("loss_weight: 1", ""), LOSS),
        "it trains nothing",
        "loss_weight: 1 loss_weight: 0 in the layer",
    ),
    Broken(
        "loss-weight",
        at(DATA + PRED + python("GoodLayer", "doctor_layers", more=""), LOSS),
        "it trains nothing",
        severity="warning",
    ),
    # What takes a loss need not lead to one.
    Broken(
        "loss-weight",
        at(euclidean(more=""), LOSS) + SCALED,
        'it trains nothing; what takes it, "scaled", leads to no loss either',
        "loss_weight: 1 in the layer",
    ),
    Broken(
        "loss-weight",
        at(euclidean(more=""), LOSS) + SCALED + SILENCE.replace('"loss"', '"scaled"'),
        '"scaled", leads to no loss either',
    ),
    Broken("loss-weight", at(euclidean(more=""), LOSS) + SILENCE, "is no loss to Caffe: it trains nothing"),
    Broken("loss-weight", at(euclidean(more=""), LOSS) + SILENCE + REAL_LOSS, "it trains nothing"),
    Broken("loss-weight", at(euclidean(more=""), LOSS) + SCALED + REAL_LOSS, "it trains nothing"),
    Broken(
        "loss-weight",
        at(DATA + PRED + python("GoodLayer", "doctor_layers", more=""), LOSS) + REAL_LOSS,
        "it trains nothing",
        severity="warning",
    ),
    Broken(
        "no-loss",
        at(COST, 'layer { name: "cost"'),
        "no layer has a loss weight, and none is a loss of Caffe's own: nothing is learnt",
        "loss_weight: 1 in the layer, if this is the loss",
        "warning",
    ),
    # Nothing says that this net is for training but the look of its last layer.
    Broken(
        "no-loss",
        at(COST.replace("include { phase: TRAIN }", ""), 'layer { name: "cost"'),
        "nothing is learnt",
        severity="warning",
    ),
    Broken(
        "no-loss",
        at(TWO_COSTS + SILENCE.replace("loss", "more"), 'layer { name: "cost"'),
        "nothing is learnt",
        "loss_weight: 1 loss_weight: 0 in the layer",
        "warning",
    ),
    Broken("loss-weight-count", at(TWO_TOPS, LOSS), "1 loss_weight for 2 tops", "loss_weight: 1 loss_weight: 0"),
    Broken(
        "label-gradient",
        at(softmax(LABELLER), 'bottom: "scores"'),
        'bottom "given" (label) depends on the parameters of "teacher"; the gradient that it gets from this loss is 0',
        "propagate_down: true propagate_down: false in the layer",
        "warning",
    ),
    Broken(
        "label-gradient",
        at(softmax(LABELLER, kind='"SoftmaxWithLoss"'), 'bottom: "scores"'),
        'depends on the parameters of "teacher"; Caffe ends with its gradient',
    ),
    Broken(
        "label-gradient",
        at(
            softmax(FROZEN_LABELLER, "\npropagate_down: true propagate_down: true", '"SoftmaxWithLoss"'),
            "propagate_down",
        ),
        'propagate_down asks for the gradient of bottom "given" (label), and Caffe ends with that',
        "propagate_down: true propagate_down: false",
    ),
    Broken(
        "no-backward",
        softmax(VOTES + ARGMAX),
        'ArgMax has no backward, and Caffe ends where it asks for it: below it "teacher" learns',
        'propagate_down: false in the layer that takes it, "loss"',
    ),
    Broken("no-backward", "force_backward: true\n" + softmax(FROZEN_VOTES + ARGMAX), "force_backward asks every layer"),
    Broken(
        "param-str",
        at(with_param_str(euclidean(), '{"axis": 1}'), "param_str"),
        'EuclideanLossLayer: param_str has the unknown key "axis"; it takes "normalization"',
    ),
    Broken(
        "param-str",
        at(with_param_str(DATA + PRED + python("L1LossLayer", "user_losses"), "x"), "param_str"),
        "L1LossLayer: param_str is not JSON",
    ),
    Broken(
        "fixed-convolution-zero",
        at(fixed('bias_term: false\n weight_filler { type: "constant" }'), "weight_filler"),
        "its top is always 0",
        'weight_filler { type: "constant" value: 1 }',
    ),
    Broken(
        "fixed-convolution-zero",
        at(fixed("bias_term: false"), "convolution_param {$"),
        "its top is always 0, if no file of weights has the layer",
        severity="warning",
    ),
    Broken(
        "fixed-convolution-trained",
        at(fixed(f"bias_term: false {ONES}", "param { lr_mult: 1 }"), "param {"),
        "is trained",
        "param { lr_mult: 0 decay_mult: 0 }",
    ),
    Broken("fixed-convolution-trained", at(fixed(f"bias_term: false {ONES}", ""), 'layer { name: "sum"'), "is trained"),
    Broken(
        "fixed-convolution-trained",
        at(fixed(ONES, "param { lr_mult: 0 }"), "convolution_param {$"),
        "has a bias, and that is trained",
        "bias_term: false",
    ),
    Broken(
        "fixed-convolution-trained",
        at(fixed(f"bias_term: false {ONES}", "", "SigmoidCrossEntropyLoss"), 'layer { name: "sum"'),
        "is trained",
        severity="warning",
    ),
    Broken("multi-gpu", at(euclidean(), LOSS), "do not work with caffe train --gpu 0,1", "--gpu 0, or", gpu="0,1"),
    Broken("multi-gpu", at(euclidean(), LOSS), "if that is more than one GPU", severity="warning", gpu="all"),
    Broken(
        "reduction-axes",
        reduction(1),
        "Reduction takes the SUM over axis 1 and all after it, 3×2×2 values to one",
        "for axis 1 alone ChannelSumEuclideanLossLayer",
        "warning",
    ),
]

GOOD = [
    ("module-import", DATA + PRED + python("GoodLayer", "doctor_layers")),
    ("layer-class", euclidean()),
    ("method-signature", DATA + PRED + python("OwnForwardLayer", "doctor_layers")),
    ("method-signature", DATA + PRED + python("FreeNamesLayer", "doctor_layers")),
    ("method-signature", DATA + PRED + python("WeightLayer", "doctor_layers", bottoms=("pred", "target", "data"))),
    ("method-signature", DATA + PRED + python("OwnArrayForwardLayer", "doctor_layers")),
    ("method-signature", DATA + PRED + python("ArrayL1LossLayer", "user_losses")),
    ("method-signature", DATA + python("NoGradientsLayer", "doctor_layers", bottoms=("data", "target"))),
    ("method-signature", DATA + python("NoBackwardLayer", "doctor_layers", bottoms=("data",))),
    ("loss-weight", euclidean(more="loss_weight: 0")),
    ("loss-weight", euclidean(more="").replace("TRAIN", "TEST")),
    ("loss-weight", euclidean(more="") + SCALED.replace("}", "loss_weight: 1 }")),
    (
        "loss-weight",
        euclidean(more="") + SCALED + 'layer { name: "x" type: "Power" bottom: "scaled" top: "x" loss_weight: -2 }',
    ),
    ("loss-weight", COST.replace('"cost"', '"metric"') + REAL_LOSS),
    ("no-loss", COST + REAL_LOSS),
    ("no-loss", COST + REAL_LOSS.replace('top: "real"', "")),  # Caffe adds the top
    ("no-loss", COST.replace("TRAIN", "TEST")),
    ("no-loss", DATA.replace("include { phase: TRAIN }", "") + PRED),  # such as for caffe test, or extract_features
    ("no-loss", COST.replace("TRAIN", "TEST").replace("DummyData", "Input").replace("dummy_data", "input")),
    ("loss-weight-count", TWO_TOPS.replace("loss_weight: 1", "loss_weight: 1 loss_weight: 0")),
    ("fixed-convolution-zero", fixed(ZEROS).replace("TRAIN", "TEST")),
    ("fixed-convolution-trained", fixed(f"bias_term: false {ONES}", "").replace("TRAIN", "TEST")),
    ("label-gradient", softmax(LABELLER, "propagate_down: true propagate_down: false")),
    ("label-gradient", softmax(FROZEN_LABELLER)),
    ("label-gradient", softmax(FROZEN_LABELLER, "propagate_down: true propagate_down: true")),
    ("no-backward", softmax(VOTES + ARGMAX, "propagate_down: true propagate_down: false")),
    ("no-backward", softmax(FROZEN_VOTES + ARGMAX)),
    ("param-str", with_param_str(euclidean(), '{"normalization": "FULL"}')),
    ("fixed-convolution-zero", fixed(f"bias_term: false {ONES}")),
    ("fixed-convolution-zero", fixed('weight_filler { type: "constant" }', "")),
    ("fixed-convolution-trained", fixed(ONES, "")),
    ("fixed-convolution-trained", fixed(ZEROS, "", "SigmoidCrossEntropyLoss")),
    ("fixed-convolution-trained", fixed(ONES, "param { lr_mult: 0 } param { lr_mult: 0 }")),
    ("reduction-axes", reduction(3)),
    ("reduction-axes", reduction(1, "dim: 4 dim: 3 dim: 1 dim: 1")),
    ("multi-gpu", DATA + PRED + 'layer { name: "loss" type: "EuclideanLoss" bottom: "pred" bottom: "target" }'),
]


@pytest.fixture(autouse=True)
def _tests_on_pythonpath(monkeypatch):
    """The probe's process finds this clone and the tests' layers, and no other."""
    path = [str(ROOT), str(ROOT / "tests/harness/layers"), os.environ.get("PYTHONPATH")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


@pytest.fixture
def examine_alone(tmp_path, monkeypatch):
    """The findings for a text, without a look at Caffe itself."""
    monkeypatch.setattr(environment, "check_caffe", lambda: ({}, []))
    monkeypatch.setattr(environment, "check_gpu", lambda gpus, **place: [])

    def examine_text(text, gpu=None):
        (tmp_path / "net.prototxt").write_text(text)
        _, findings, is_checked = doctor.examine(str(tmp_path / "net.prototxt"), gpu)
        assert is_checked
        return findings

    return examine_text


@pytest.fixture
def examine(examine_alone, quick_children):
    """As `examine_alone`, but the probe works in child processes that start at once."""
    return examine_alone


def marked_line(text):
    (line,) = (number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# here"))
    return line


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
    _, findings, _ = doctor.examine(str(path.relative_to(ROOT)))
    # This one shows what a Reduction does.
    expected = ["reduction-axes"] if path.stem == "channel_sum_euclidean_loss_all_axes_builtin" else []
    assert [finding.rule for finding in findings] == expected
    assert "error" not in [finding.severity for finding in findings]


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
    ("file", "path"), [("my_losses.py", "."), ("nets/my_losses/__init__.py", "nets")], ids=["here", "beside the net"]
)
def test_a_module_off_pythons_path(file, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    (tmp_path / file).parent.mkdir(exist_ok=True)
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


@pytest.mark.parametrize(
    ("text", "layer", "found", "more"),
    [
        (
            euclidean().replace('"Convolution"', '"Convolutoin"'),
            "pred",
            "Unknown layer type: Convolutoin",
            'type: "Convolution"',
        ),
        (
            'layer { name: "data" type: "HDF5Data" top: "x" hdf5_data_param { source: "no.txt" batch_size: 1 } }',
            "data",
            "Failed to open source file: no.txt",
            "there is no no.txt here, in /",
        ),
        (
            euclidean().replace("num_output: 3", "num_output: 2"),
            "loss",
            "ValueError: EuclideanLossLayer: bottom[1]",
            "",
        ),
        (
            DATA + PRED + python("RaisingLayer", "doctor_layers"),
            "loss",
            "RuntimeError: raised in setup",
            'doctor_layers.py", line',
        ),
        (euclidean().replace('bottom: "data"', 'bottom: "dta"'), "pred", "Unknown bottom blob 'dta'", ""),
        (
            euclidean().replace('"pred"', '"loss"') + 'layer { name: "again" type: "NoType" bottom: "loss" top: "x" }',
            "again",
            "Unknown layer type: NoType",
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


def test_a_layer_that_hangs(examine_alone, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import time\nfrom doctor_layers import GoodLayer\n"
        "class SlowLayer(GoodLayer):\n    def setup(self, bottom, top):\n        time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def ask_briefly(*arguments, **more):
        monkeypatch.setattr(child, "TIMEOUT", 5)
        return environment.ask(*arguments, **more)

    monkeypatch.setattr(build, "ask", ask_briefly)
    (finding,) = examine_alone(DATA + PRED + python("SlowLayer", "slow"))
    assert (finding.rule, finding.layer) == ("build", "loss")
    assert "does not come to an end within 5 s" in finding.found


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


# Which nets and phases.


@pytest.mark.parametrize(("phase", "other"), [("TRAIN", "TEST"), ("TEST", "TRAIN")])
def test_a_net_is_checked_in_both_phases_where_it_is_whole_in_both(phase, other, examine):
    text = DATA.replace("include { phase: TRAIN }", "")
    for kind, included in (("Convolution", phase), ("NoType", other)):
        text += PRED.replace('"Convolution"', f'"{kind}" include {{ phase: {included} }}')
    (finding,) = examine(text + python("EuclideanLossLayer"))
    assert finding.found.endswith(f"Unknown layer type: NoType, in phase {other}")
    print(
        examine(
            text.replace(f"{{ phase: {phase} }}", "{ }").replace(
                chr(34) + "Convolution" + chr(34), chr(34) + "NoType" + chr(34)
            )
        )
    )
    (finding,) = examine(text.replace(f"{{ phase: {phase} }}", "{ }").replace('"Convolution"', '"NoType"'))
    assert finding.found.endswith("Unknown layer type: NoType")


def test_what_is_wrong_in_both_phases_is_said_once(examine):
    text = euclidean(module="no_such_module").replace("include { phase: TRAIN }", "")
    assert len(examine(text)) == 1


@pytest.fixture
def solver(tmp_path, monkeypatch, examine):
    """Findings for the text of a solver; its nets can be written before."""
    monkeypatch.chdir(tmp_path)

    def examine_solver(text, settings=SETTINGS, **nets):
        (tmp_path / "nets").mkdir(exist_ok=True)
        for name, net in nets.items():
            (tmp_path / f"nets/{name}.prototxt").write_text(net)
        return examine(f"{text}\n{settings}\n")

    return examine_solver


SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" test_interval: 1'


NO_WEIGHT = euclidean(more="")
TEST_NET = euclidean().replace("TRAIN", "TEST")


@pytest.mark.parametrize(
    ("text", "file", "line"),
    [
        ('net: "nets/good.prototxt"', None, None),
        ('net: "nets/bad.prototxt"', "nets/bad.prototxt", 5),
        ('train_net: "nets/bad.prototxt"', "nets/bad.prototxt", 5),
        (f"# a line\nnet_param {{\n{NO_WEIGHT}}}", "net.prototxt", 7),
        ('train_net: "nets/good.prototxt" test_net: "nets/test.prototxt" test_iter: 1', None, None),
        ('train_net: "nets/good.prototxt" test_net: "nets/no_type.prototxt" test_iter: 1', "nets/no_type.prototxt", 1),
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
    assert solver('train_net: "nets/a.prototxt" test_net: "nets/b.prototxt" test_iter: 1', a=euclidean(), b=test) == []


def test_a_net_is_tested_as_often_as_the_solver_says(solver):
    both = euclidean().replace("include { phase: TRAIN }", "")
    both += 'layer { name: "no" type: "NoType" bottom: "pred" top: "no" include { phase: TEST stage: "b" } }'
    text = 'net: "nets/both.prototxt" test_iter: 1 test_state { stage: "a" } '
    assert solver(text, both=both) == []
    (finding,) = solver(f'{text} test_iter: 1 test_state {{ stage: "b" }}')
    assert finding.found.endswith("Unknown layer type: NoType, in phase TEST")


RIGHT = 'base_lr: 0.1 lr_policy: "fixed"'


@pytest.mark.parametrize(
    ("settings", "severity", "found", "write"),
    [
        ("base_lr: 0.1", "error", "no lr_policy: caffe train ends in the first iteration", 'lr_policy: "fixed"'),
        ('base_lr: 0.1 lr_policy: "stepp"', "error", 'lr_policy "stepp", which Caffe does not know', '"step" (of'),
        ('base_lr: 0.1 lr_policy: "step"', "error", "needs a stepsize, found 0", "stepsize: "),
        ('lr_policy: "fixed"', "warning", "base_lr is 0: nothing learns", "base_lr: "),
        ('base_lr: 0.1 lr_policy: "fixed" type: "Adamm"', "error", 'type "Adamm", which', 'type: "Adam" (of SGD, '),
        (
            'base_lr: 0.1 lr_policy: "fixed" test_iter: 1',
            "error",
            "a test net needs a test_interval, found 0",
            "test_interval: ",
        ),
        (
            'base_lr: 0.1 lr_policy: "fixed" snapshot: 10 snapshot_prefix: "no/such"',
            "error",
            "no folder no that can be written to, so caffe train ends at the start",
            "mkdir -p no, or",
        ),
        (
            'base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "no/such"',
            "error",
            "ends at its end, and what was learnt is lost",
            "mkdir -p no, or",
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
    has_line = r"stepp|Adamm|folder|ends at its|momentum|rms_decay|from 0|average_loss|iter_size|L3"
    assert finding.line == (3 if re.search(has_line, found) else 1)
    assert found in finding.found
    assert write in finding.write


@pytest.mark.parametrize(
    "settings",
    [
        'base_lr: 0.1 lr_policy: "step" stepsize: 5',
        'base_lr: 0.1 lr_policy: "fixed" snapshot: 10 snapshot_prefix: "nets/snapshot"',
        'base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "no/such" snapshot_after_train: false',
        'base_lr: 0.1 lr_policy: "poly" snapshot_prefix: "nets"',
        f'{RIGHT} type: "AdaGrad" momentum: 0',
        f'{RIGHT} type: "RMSProp" rms_decay: 0',
        f'{RIGHT} type: "Adam" momentum: 0.9 rms_decay: 1 average_loss: 1 iter_size: 1',
        f'{RIGHT} regularization_type: "L3"',
        f'{RIGHT} weight_decay: 1 regularization_type: "L1"',
    ],
)
def test_settings_that_are_right(settings, solver):
    assert solver('net: "nets/net.prototxt"', settings=settings, net=euclidean()) == []


@pytest.mark.parametrize(
    ("text", "found", "write"),
    [
        ('\nnet: "good.prototxt"', "here, in ", 'net: "nets/good.prototxt", or run caffe from '),
        ('\nnet: "no.prototxt"', "there is no no.prototxt", 'net: "the path of the net, from here"'),
        ("", "takes one train net, found none", 'net: "..."'),
        ('net: "nets/good.prototxt" train_net: "x"', "found ['net', 'train_net']", ""),
    ],
)
def test_a_solver_without_its_net(text, found, write, solver, tmp_path, monkeypatch):
    solver('net: "nets/good.prototxt"', good=euclidean())
    (tmp_path / "nets/solver.prototxt").write_text(f"{text}\n{SETTINGS}\n")
    _, findings, _ = doctor.examine("nets/solver.prototxt")
    (finding,) = findings
    assert (finding.rule, finding.file) == ("solver-net", "nets/solver.prototxt")
    assert found in finding.found
    assert write in finding.write
    assert finding.line == (2 if text.startswith("\n") else 1)


def test_a_file_of_weights_may_hold_the_fixed_convolution(solver):
    net = fixed(ZEROS)
    (finding,) = solver('net: "nets/fixed.prototxt" weights: "x.caffemodel"', fixed=net)
    assert (finding.rule, finding.severity) == ("fixed-convolution-zero", "warning")


# Caffe itself. What stands for it here is broken in the way of the rule, and does nothing else.

DESCRIPTORS = """TypeError('Descriptors cannot be created directly.\\nIf this call came from a _pb2.py file, ...')"""
ENVIRONMENTS = [
    ("caffe-missing", {"__init__.py": "from . import pycaffe", "pycaffe.py": "from ._caffe import Net"}, "_caffe.so"),
    ("caffe-missing", {"__init__.py": "VERSION = 2"}, "is not pycaffe"),
    (
        "caffe-other-python",
        {"__init__.py": "raise SystemError('initialization of _caffe')", "_caffe.so": "\x7fELF libpython2.7.so.1.0"},
        "_caffe.so is built for Python 2.7; this is 3.",
    ),
    (
        "caffe-other-python",
        {"__init__.py": "from . import _caffe", "_caffe.cpython-36m-x86_64-linux-gnu.so": ""},
        "is built for Python 3.6",
    ),
    ("caffe-other-python", "ImportError('_caffe.so: undefined symbol: PyClass_Type')", "for another Python"),
    (
        "caffe-library",
        "ImportError('libcaffe.so.1.0.0: cannot open shared object file: No such file or directory')",
        "Caffe's library libcaffe.so.1.0.0 is not found",
    ),
    (
        "caffe-library",
        "ImportError('libhdf5_hl.so.100: cannot open shared object file: No such file or directory')",
        "needs the library libhdf5_hl.so.100",
    ),
    ("caffe-protobuf", DESCRIPTORS, "Python's protobuf is newer"),
    ("caffe-protobuf", "ImportError(\"cannot import name 'builder' from 'google.protobuf.internal'\")", "is older"),
    ("caffe-protobuf", "ImportError('undefined symbol: _ZN6google8protobuf7Message')", "with another libprotobuf"),
    ("caffe-numpy", "ImportError('numpy.core.multiarray failed to import')", "headers of another NumPy"),
    ("caffe-numpy", "AttributeError('_ARRAY_API not found')", "headers of another NumPy"),
    ("caffe-dependency", "ModuleNotFoundError(\"No module named 'skimage'\")", "needs the package skimage"),
    ("caffe-import", "RuntimeError('out of cheese')", "import caffe fails"),
    (
        "caffe-other-python",
        {"__init__.py": "import os; os.abort()", "_caffe.so": "\x00libboost_python3-py35.so.1.58.0\x00"},
        "is built for Python 3.5",
    ),
    ("caffe-import", {"__init__.py": "import os; os.abort()"}, "import caffe ends the process with SIGABRT"),
    ("caffe-import", {"__init__.py": "raise SystemExit"}, "import caffe fails"),
]


def run_doctor(*arguments, executable=sys.executable, path=()):
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)])}
    command = [executable, "-m", "pylayers", "doctor", *arguments]
    return subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("rule", "files", "found"), ENVIRONMENTS, ids=[rule for rule, _, _ in ENVIRONMENTS])
def test_finds_what_is_wrong_with_caffe(rule, files, found, tmp_path):
    (tmp_path / "caffe").mkdir()
    for name, text in (files if isinstance(files, dict) else {"__init__.py": f"raise {files}"}).items():
        (tmp_path / "caffe" / name).write_text(text)
    done = run_doctor("prototxt/euclidean_loss.prototxt", path=[tmp_path])
    assert (done.returncode, done.stderr) == (1, "")
    first, finding, write, *rest = done.stdout.splitlines()
    assert first.startswith("Python ")
    assert re.fullmatch(rf"error: .*{re.escape(found)}.* \[{rule}\]", finding)
    assert write.startswith("    | Traceback" if rule == "caffe-import" else "    write: ") or "SIGABRT" in found
    assert rest[-2:] == [
        "1 error, 0 warnings",
        "prototxt/euclidean_loss.prototxt could not be checked: that needs Caffe's Python module",
    ]


def test_what_lies_beside_caffes_module_is_no_matter(tmp_path):
    """A folder, a link to nothing, a file that may not be read: what is wrong is still said in one line."""
    (tmp_path / "caffe/_caffe_old").mkdir(parents=True)
    (tmp_path / "caffe/_caffe_older.so").mkdir()
    (tmp_path / "caffe/_caffe.so").symlink_to("gone.so")
    (tmp_path / "caffe/__init__.py").write_text("from caffe import _caffe")
    done = run_doctor(path=[tmp_path])
    assert (done.returncode, done.stderr) == (1, "")
    assert "ImportError: cannot import name '_caffe'" in done.stdout
    assert "[caffe-" in done.stdout


def test_a_binary_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "_caffe.so").write_text("")
    monkeypatch.setattr("builtins.open", refuse)
    assert probe._built_for(str(tmp_path / "_caffe.so")) is None


@pytest.mark.usefixtures("quick_children")
@pytest.mark.parametrize("python_layers", [True, False])
def test_a_caffe_that_is_not_located(python_layers, monkeypatch, capsys):
    """The import goes well, and the probe that looks for its files gives no answer."""
    answers = {"locate": Answer(None, "", 1), "environment": environment.ask("environment")}
    answers["environment"].found["python_layers"] = python_layers
    monkeypatch.setattr(environment, "ask", lambda do: answers[do])
    assert cli.main(["doctor"]) == (0 if python_layers else 1)
    assert ("error: this Caffe is built without Python layers" in capsys.readouterr().out) == (not python_layers)


def test_no_caffe_at_all(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    done = run_doctor(executable=tmp_path / "bin/python")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"error: this Python, .*, finds no Caffe.* \[caffe-missing\]", done.stdout)


def test_this_caffe_is_right(capsys):
    assert cli.main(["doctor"]) == 0
    numba, hint = (r", Numba \S+", "") if importlib.util.find_spec("numba") else ("", NO_NUMBA)
    versions = rf"Python 3\S+, Caffe \S+, NumPy \S+{numba}, protobuf \S+(, CUDA \d+)?{hint}; Caffe in /"
    assert re.match(versions, capsys.readouterr().out)


NO_NUMBA = ", no Numba, with which the losses are faster on the CPU"


def test_a_numba_that_does_not_compile_is_none(monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert cli.main(["doctor"]) == 0
    assert f"{NO_NUMBA}; Caffe in /" in capsys.readouterr().out


@pytest.mark.usefixtures("quick_children")
def test_a_caffe_without_python_layers(monkeypatch):
    real = {name: environment.ask(name) for name in ("locate", "environment")}
    real["environment"].found["python_layers"] = False
    monkeypatch.setattr(environment, "ask", lambda do: real[do])
    _, (finding,) = environment.check_caffe()
    assert (finding.rule, finding.severity) == ("python-layers", "error")
    assert "WITH_PYTHON_LAYER := 1" in finding.write


# GPU mode.


@pytest.mark.usefixtures("quick_children")
@pytest.mark.skipif(CUDA, reason="this Caffe is built with CUDA")
@pytest.mark.parametrize(
    ("mode", "arguments", "place"),
    [
        ("", [], None),
        ("solver_mode: CPU", [], None),
        ("solver_mode: GPU device_id: 1", [], "solver.prototxt:2: "),
        ("solver_mode: CPU", ["--gpu", "0"], ""),
        ("", ["--gpu", "all"], ""),
    ],
)
def test_gpu_mode_with_a_caffe_for_the_cpu(mode, arguments, place, tmp_path, monkeypatch, capsys):
    """Without --gpu, caffe train goes by a solver_mode that is written down, and not by its default, GPU."""
    monkeypatch.chdir(tmp_path)
    text = DATA + PRED + 'layer { name: "loss" type: "EuclideanLoss" bottom: "pred" bottom: "target" }'
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "solver.prototxt").write_text(f'net: "net.prototxt"\n{mode}\n{SETTINGS}\n')
    assert cli.main(["doctor", "solver.prototxt", *arguments]) == (0 if place is None else 1)
    out = capsys.readouterr().out
    expected = f"\n{place}error: GPU mode, but this Caffe is built for the CPU alone"
    assert (expected in out) == (place is not None)
    assert "cupy" not in out


NO_DEVICE = (
    "F1122 14:13:54.290 47 common.cpp:152] Check failed: error == cudaSuccess (101 vs. 0)  invalid device ordinal"
)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(environment, "ask", lambda do, *arguments: Answer(None, NO_DEVICE, -6))
    (finding,) = environment.check_gpu([7])
    assert (finding.rule, finding.severity) == ("gpu-device", "error")
    assert finding.found == (
        "GPU 7 cannot be used: Caffe says: Check failed: error == cudaSuccess (101 vs. 0)  invalid device ordinal"
    )


RUNTIME = """
__version__ = "13.0"
class cuda:
    class runtime:
        runtimeGetVersion = staticmethod(lambda: {version})
        @staticmethod
        def getDeviceCount():
            {count}
"""
CUPYS = [
    ("cupy-missing", "raise ModuleNotFoundError('No module named', name='cupy')", "CuPy is not installed"),
    ("cupy-cuda", "raise ImportError('libcublas.so.11: cannot open shared object file')", "for another CUDA than"),
    ("cupy-cuda", "raise ImportError('broken')", "CuPy cannot be imported"),
    ("cupy-cuda", RUNTIME.format(version=11080, count="return 1"), "CuPy is for CUDA 11, Caffe for CUDA 12"),
    ("cupy-device", RUNTIME.format(version=12040, count="raise RuntimeError('insufficient driver')"), "no device"),
    ("cupy-device", RUNTIME.format(version=12040, count="return 0"), "no device"),
    ("cupy-device", RUNTIME.format(version=12040, count="return 1"), "CuPy does not compute"),
    ("cupy-device", "import os; os.abort()", "CuPy ends the process with SIGABRT"),
]


@pytest.mark.parametrize(("rule", "code", "found"), CUPYS, ids=[rule for rule, _, _ in CUPYS])
def test_finds_what_is_wrong_with_cupy(rule, code, found, tmp_path, monkeypatch):
    (tmp_path / "cupy.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    answer = environment.ask("cupy", 0)
    finding = environment.cupy_failure(answer, 12)
    assert (finding.rule, finding.severity) == (rule, "warning")
    assert found in finding.found


def test_finds_nothing_wrong_with_cupy():
    found = {"cupy": "13.0", "cuda": 12, "devices": 1, "computes": True}
    assert environment.cupy_failure(Answer(found, "", 0), 12) is None
    assert environment.cupy_failure(Answer(found, "", 0), None) is None
    assert environment.cupy_failure(Answer(found, "", 0), 13).rule == "cupy-cuda"


def test_cupy_is_asked_where_caffes_gpu_mode_works(monkeypatch):
    answers = {"gpu": Answer({"cuda": 12}, "", 0), "cupy": Answer({"missing": True, "traceback": ""}, "", 0)}
    monkeypatch.setattr(environment, "ask", lambda do, *arguments: answers[do])
    (finding,) = environment.check_gpu([0, 1], file="solver.prototxt", line=3)
    assert (finding.rule, finding.file, finding.line) == ("cupy-missing", "solver.prototxt", 3)
    assert finding.write == "pip install cupy-cuda12x"


# The command.


def test_every_rule_is_tested():
    tables = {broken.rule for broken in BROKEN}, {rule for rule, *_ in ENVIRONMENTS}, {rule for rule, *_ in CUPYS}
    # Each of these has a test of its own above.
    alone = {"python-layers", "cpu-only-caffe", "gpu-device", "module-path", "build", "old-format"}
    alone |= {"solver-net", "solver-settings", "nothing-learns"}
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
        (
            'name: "x"\nlayer { nmae: "y" }',
            'net.prototxt:2: Message type "caffe.LayerParameter" has no field named "nmae',
        ),
        ("layer { name: 'x'\n\n", "net.prototxt:1: Expected"),
        ("layer }", "net.prototxt:1: "),
        (
            'base_lr: 0.1\nnet: "net.prototxt"',
            'net.prototxt:1: Message type "caffe.NetParameter" has no field named "base',
        ),
        ("base_lr: 0.1\nmax_iter: many", "net.prototxt:2: 'max_iter: many': Couldn't parse integer: many"),
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
