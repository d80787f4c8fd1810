"""What users import: these names stay, with type hints and, where they are more than a name, an example."""

import importlib
import inspect
import re
import subprocess
import sys

import caffe
import pytest
from google.protobuf import text_format
from harness import ROOT

import pylayers
from pylayers.caffe_nets.build import load
from pylayers.caffe_nets.text import input_text

PUBLIC = {
    "pylayers": [
        "ChannelSumEuclideanLossLayer",
        "DiceLossLayer",
        "EuclideanLossLayer",
        "FocalLossLayer",
        "L1LossLayer",
        "SigmoidCrossEntropyLossLayer",
        "SmoothL1LossLayer",
        "TripletLossLayer",
        "WeightedSoftmaxLossLayer",
        "__version__",
    ],
    "pylayers.layer": ["LossLayer"],
    "pylayers.array_layer": ["ArrayLossLayer"],
    "pylayers.kernel_layer": ["KernelLossLayer", "Plan"],
    "pylayers.layers": ["python_loss"],
    "pylayers.params": ["Choice", "Integer", "Number", "Numbers", "parse"],
    "pylayers.gradient_check": ["assert_gradient", "check_gradient"],
    "pylayers.class_weights": ["median_frequency"],
    "pylayers.errors": ["UserError"],
}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names]
FUNCTIONS = [
    ("pylayers.layers", "python_loss"),
    ("pylayers.params", "parse"),
    ("pylayers.gradient_check", "assert_gradient"),
    ("pylayers.gradient_check", "check_gradient"),
    ("pylayers.class_weights", "median_frequency"),
]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[".".join(pair) for pair in NAMES])
def test_name_is_there_and_documented(module, name):
    found = getattr(importlib.import_module(module), name)
    if name != "__version__":
        assert len(found.__doc__.splitlines()) > 1 or module == "pylayers.params"


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=[".".join(pair) for pair in FUNCTIONS])
def test_functions_have_type_hints(module, name):
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    assert signature.return_annotation is not inspect.Signature.empty
    unhinted = [key for key, each in signature.parameters.items() if each.annotation is inspect.Parameter.empty]
    assert unhinted == []


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "pylayers/py.typed").is_file()
    assert "py.typed" in (ROOT / "setup.py").read_text()


def test_all_layers_are_listed():
    assert sorted(pylayers.__all__) == [name for name in PUBLIC["pylayers"] if name.endswith("Layer")]


def test_the_command_tells_the_version():
    done = subprocess.run([sys.executable, "-m", "pylayers", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"pylayers {pylayers.__version__}\n"


@pytest.mark.parametrize("name", pylayers.__all__)
def test_the_example_of_a_layers_docstring_loads(name):
    doc = inspect.cleandoc(getattr(pylayers, name).__doc__)
    example = re.search(r"^Example:\n(.*?)^\S", doc, re.DOTALL | re.MULTILINE)[1]
    assert len(example.strip().splitlines()) == 6
    layer = text_format.Parse(example, caffe.proto.caffe_pb2.NetParameter()).layer[0]
    assert layer.python_param.layer == name
    shapes = [(4, 3), (4,)] if layer.bottom[1] == "label" else [(4, 3)] * len(layer.bottom)
    inputs = "".join(input_text(blob, shape) for blob, shape in zip(layer.bottom, shapes))
    net = load(inputs + example)
    assert net.forward()["loss"] >= 0
