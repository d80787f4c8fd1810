"""Nets that can be built, and what a first run of them shows. "# here" stands at the line that a finding must name."""

from typing import NamedTuple

from harness.doctor_nets import ONES

GAUSS = 'data_filler { type: "gaussian" std: 1 }'


def data(labels="value: 2", kind="constant"):
    return f"""\
layer {{ name: "data" type: "DummyData" top: "data" top: "target" top: "label"
  dummy_data_param {{ shape {{ dim: 4 dim: 3 }} shape {{ dim: 4 dim: 5 }} shape {{ dim: 4 }}
    {GAUSS} {GAUSS} data_filler {{ type: "{kind}" {labels} }} }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
"""


def loss(kind, bottom="label", more="", labels="value: 2", filler="constant"):
    """A loss of Caffe's own over five classes."""
    return f"""{data(labels, filler)}\
layer {{ name: "loss" type: "{kind}" bottom: "scores" bottom: "{bottom}" top: "loss" {more} }}  # here
"""


def python(layer, more="", module="run_layers"):
    """A Python loss over the scores."""
    return f"""{data()}{more}\
layer {{ name: "loss" type: "Python" bottom: "scores" top: "loss" loss_weight: 1  # here
  python_param {{ module: "{module}" layer: "{layer}" }} }}
"""


WEIGHTED = 'type: "Python" bottom: "scores" bottom: "label" top: "loss" loss_weight: 1 '
WEIGHTED += (
    'python_param { module: "pylayers" layer: "WeightedSoftmaxLossLayer" param_str: \'{"class_weights": WEIGHTS}\' }'
)


def weighted(labels, weights="[1, 1, 1, 1, 1]"):
    return f"""{data(labels)}\
layer {{ name: "loss" {WEIGHTED.replace("WEIGHTS", weights)} }}  # here
"""


LOG = """\
layer { name: "log" type: "Log" bottom: "scores" top: "log" }
layer { name: "loss" type: "EuclideanLoss" bottom: "log" bottom: "target" top: "loss" }  # here
"""
ZEROS = """\
layer { name: "zeros" type: "Power" bottom: "scores" top: "zeros" power_param { scale: 0 } }
layer { name: "sum" type: "Reduction" bottom: "zeros" top: "sum" loss_weight: 1 }  # here
"""
SOFT_TARGETS = """\
layer { name: "data" type: "DummyData" top: "data" top: "target" dummy_data_param {
  shape { dim: 4 dim: 3 } shape { dim: 4 dim: 5 } data_filler { type: "uniform" min: 0 max: 1 } } }
layer { name: "scores" type: "InnerProduct" bottom: "data" top: "scores"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "scores" bottom: "target" top: "loss" loss_weight: 1
  python_param { module: "pylayers" layer: "SigmoidCrossEntropyLossLayer" } }
"""
INPUTS = """\
layer { name: "data" type: "Input" top: "data" top: "words" top: "label"
  input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } shape { dim: 4 dim: 1 } } }
layer { name: "embed" type: "Embed" bottom: "words" top: "embedded"
  embed_param { num_output: 3 input_dim: 7 weight_filler { type: "xavier" } } }
layer { name: "concat" type: "Flatten" bottom: "embedded" top: "flat" }
layer { name: "scores" type: "InnerProduct" bottom: "flat" top: "scores"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "same" type: "Flatten" bottom: "label" top: "same" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "same" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "hinge" type: "HingeLoss" bottom: "scores" bottom: "label" top: "hinge" }
"""
FROZEN = data().replace("inner_product_param", "param { lr_mult: 0 } param { lr_mult: 0 } inner_product_param")
IGNORE = "loss_param { ignore_label: 2 }"


class Run(NamedTuple):
    """A net, and what a first run of it shows."""

    rule: str
    text: str
    found: str
    write: str = ""
    severity: str = "error"


SHOWN = [
    Run("run-error", python("RaisingForwardLayer"), "tests/harness/layers/run_layers.py:27"),
    Run("run-error", python("RaisingBackwardLayer"), "'RaisingBackwardLayer' object has no attribute 'forgotten' at "),
    Run("run-error", python("AbortingLayer"), "forward: ends the process with SIGABRT"),
    Run("run-loss", python("NanLayer"), "the loss is NaN"),
    Run("run-loss", data() + LOG, 'the loss is NaN; the first blob that is NaN is "log", of layer "log"'),
    Run("run-loss", python("SilentLayer"), "is exactly 0", "top[0].data[...] = ... in forward", "warning"),
    Run("run-loss", data() + ZEROS, "the loss of the first batch is exactly 0", severity="warning"),
    Run("run-changed-bottom", python("SubtractingLayer"), 'the data of bottom[0] "scores"', "bottom[0].data.copy()"),
    Run("run-gradient", python("NanGradientLayer"), 'the gradient of bottom[0] "scores" is infinite'),
    Run(
        "run-gradient",
        python("NoGradientLayer"),
        'backward gives bottom[0] "scores" a gradient that is 0 everywhere',
        "bottom[0].diff[...] = ... in backward",
        "warning",
    ),
    Run(
        "run-labels",
        loss("SoftmaxWithLoss", labels="value: 255"),
        'bottom[1] "label" holds 255 at (0); it must hold whole numbers from 0 to 4: Caffe reads out of bounds there',
        "loss_param { ignore_label: 255 }, if 255 marks",
    ),
    Run("run-labels", loss("HingeLoss", labels="value: -1"), "holds -1 at (0)", "else labels from 0"),
    Run("run-labels", loss("SoftmaxWithLoss", labels="value: 0.5"), "holds 0.5 at (0)", "numbers from 0"),
    Run("run-labels", loss("SoftmaxWithLoss", labels="value: 5"), "from 0 to 4"),
    Run(
        "run-labels",
        loss("Accuracy", labels="value: 9"),
        "holds 9 at (0)",
        "accuracy_param { ignore_label: 9 }",
    ),
    Run("run-labels", weighted("value: 255"), "holds 255 at (0); it must", '"ignore_label": 255 in param_str'),
    Run(
        "run-labels",
        loss("SoftmaxWithLoss", more=IGNORE),
        'every label of "label" in the first batch is 2, which is ignored',
        severity="warning",
    ),
]
SILENT = {
    "targets that are not whole": SOFT_TARGETS,
    "right": python("SquareLayer"),
    "in place": python("SquareLayer", python("InPlaceLayer").split(data())[1].replace('"loss"', '"scores"')),
    "labels": loss("SoftmaxWithLoss"),
    "labels of Accuracy": loss("Accuracy"),
    "an ignored label": loss("SoftmaxWithLoss", more="loss_param { ignore_label: 255 }"),
    "weighted": weighted("value: 4"),
    "inputs": INPUTS,
    "a frozen layer": FROZEN + loss("SoftmaxWithLoss").split(data())[1],
    "labels by way of a layer": INPUTS.split('layer { name: "accuracy"')[0],
    # Its statistics are zeros here, and would make the scores infinite.
    "batch norm": INPUTS.replace(
        'layer { name: "scores"',
        'layer { name: "normal" type: "BatchNorm" bottom: "flat" top: "normal" batch_norm_param { eps: 1e-9 } }\n'
        'layer { name: "exp" type: "Exp" bottom: "normal" top: "exp" }\nlayer { name: "scores"',
    ).replace('bottom: "flat" top: "scores"', 'bottom: "exp" top: "scores"'),
    "constants": data().replace(GAUSS, 'data_filler { type: "constant" }')
    + f"""layer {{ name: "one" type: "InnerProduct" bottom: "data" top: "one"
  inner_product_param {{ num_output: 5 bias_term: false {ONES} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "one" bottom: "target" }}
""",
}
