"""Nets for the tests of `pylayers doctor`, right and wrong ones."""

import inspect
import re

from pylayers.layer import LossLayer

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
SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 10'


def weighted(more, param_str='{"class_weights": [1, 2, 3, 4, 5]}'):
    """A weighted softmax loss, with a line `more`."""
    return f"""{DATA}{SCORES}\
layer {{ name: "loss" type: "Python" bottom: "scores" bottom: "label" top: "loss" loss_weight: 1
  {more}
  python_param {{ module: "pylayers" layer: "WeightedSoftmaxLossLayer"
    param_str: '{param_str}' }} }}
"""


def twice(kind, loss='"SoftmaxWithLoss"', target="label"):
    """A layer over the scores, and a loss over that."""
    more = DATA.replace('top: "label"', 'top: "label" top: "more"').replace("} } }", "} shape { dim: 4 dim: 5 } } }")
    return f"""{more if target == "more" else DATA}{SCORES}\
layer {{ name: "prob" type: "{kind}" bottom: "scores" top: "prob" }}
layer {{ name: "loss" type: {loss} top: "loss" loss_weight: 1
  bottom: "prob" bottom: "{target}" }}
"""


CLASSIFIED = f"""{DATA}{SCORES}\
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "label"
  top: "loss" }}
"""
AGAIN = """\
layer { name: "pred" type: "Convolution" bottom: "data" top: "again"  # here
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "xavier" } } }
"""


def shared(params):
    """Two layers of one name, with the same params."""
    return euclidean().replace(LOSS, AGAIN + "\n" + LOSS).replace('"Convolution"', f'"Convolution" {params}')


RELUS = euclidean().replace(LOSS, 2 * 'layer { name: "relu" type: "ReLU" bottom: "pred" top: "pred" }\n' + LOSS)

NO_WEIGHT = euclidean(more="")
TEST_NET = euclidean().replace("TRAIN", "TEST")
RIGHT = SETTINGS


def marked_line(text):
    (line,) = (number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# here"))
    return line
