"""Imports go one way, no module reaches into another's private names, and a new loss is one folder."""

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest
from harness import ROOT

PACKAGE = ROOT / "pylayers"
# The rooms from the ground up. A module may import from its own room and from those below it.
FLOORS = [
    ["errors", "params", "caffe_facts"],
    ["runtime"],
    ["layer"],
    ["array_layer", "kernel_layer"],
    ["losses"],
    ["__init__"],
    ["layers", "caffe_nets"],
    ["gradient_check", "class_weights", "train"],
    ["tools"],
    ["__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
# Names with an underscore that pycaffe, collections and ctypes have for everybody.
OTHERS = {
    *(
        "_forward",
        "_backward",
        "_outputs",
        "_blobs",
        "_blob_loss_weights",
        "_layer_names",
        "_blob_names",
        "_bottom_ids",
        "_top_ids",
        "_caffe",
        "_gpu_data_ptr",
        "_gpu_diff_ptr",
    ),
    *("_asdict", "_replace", "_fields", "_fields_", "_exit", "_ZN5caffe5Caffe3GetEv"),
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def room(module):
    """The room of a module of the package, by its dotted name without "pylayers."."""
    return module.split(".")[0]


def imports(path):
    """The dotted names, without "pylayers.", of the modules of the package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not getattr(node, "level", 0), f"{path}: the kit's imports have whole names"
        if isinstance(node, ast.ImportFrom) and node.module == "pylayers":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pylayers."):
            yield node.module.removeprefix("pylayers.")
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "pylayers":
                    yield name.name.removeprefix("pylayers").removeprefix(".") or "__init__"


@each_file
def test_imports_go_one_way(path):
    here = room(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    for module in imports(path):
        assert FLOOR[room(module)] <= FLOOR[here], f"{here} imports {module}"


def test_every_room_has_its_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert rooms == set(FLOOR)


@each_file
def test_no_module_reaches_into_anothers_private_names(path):
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
    for node in ast.walk(tree):
        names = [node.attr] if isinstance(node, ast.Attribute) else []
        names += [name.name for name in node.names] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            is_private = re.match("_[^_]", name)
            assert not is_private or name in own or name in OTHERS, f"{path.name}:{node.lineno} takes {name}"


LOSS = '''
from pylayers.array_layer import ArrayLossLayer


class ToyLossLayer(ArrayLossLayer):
    """E = 1/N · Σ (pred − target)²."""

    def check_shapes(self):
        self.check_same_shape(1, like=0)

    def loss(self, xp, pred, target):
        return xp.square(pred - target).sum(dtype=xp.float64) / len(pred)

    def gradients(self, xp, pred, target):
        gradient = 2 * (pred - target) / len(pred)
        return gradient, -gradient
'''
NAME = '    "ToyLossLayer": "pylayers.losses.toy",\n'
PAIR = """
    "toy": Pair(
        "toy",
        "EuclideanLoss, Power",
        lambda case, folder: Twins(
            {"first": case.shape, "second": case.shape},
            python("ToyLossLayer", ("first", "second"), {}),
            layer("EuclideanLoss", ("first", "second"), top="mean", loss_weight=0) + _power(2),
        ),
        [Case("toy", (4, 10)), Case("toy", (3, 4, 5))],
        [Case("toy", (4, 10))],
    ),
"""
# What its test would hold, with its net and its twin.
PROGRAM = """
import sys
import pylayers
from pylayers.gradient_check import assert_gradient
from pylayers.tools import cli
from pylayers.tools.bench import cpu
from pylayers.tools.compare import Settings, all_layers
from pylayers.tools.twins import PAIRS

assert pylayers.__file__.startswith(sys.argv[1])
(row,) = all_layers.compare_all(PAIRS["toy"].compared, Settings(repeat=1))
assert row["within_tolerance"] and row["cases"] == 2, row
assert row["float64_python"] < 1e-6, row
(timed,) = PAIRS["toy"].timed
assert cpu.bench([timed], 1)["rows"][0]["ratio"] > 0
calls = cpu.caffe_calls(timed)["python"]
net = calls["backward"].func.__self__
calls["backward"]()
assert net.blobs["first"].diff.any()
assert_gradient("type: 'Python' python_param { module: 'pylayers' layer: 'ToyLossLayer' }", [(4, 3), (4, 3)])
"""


def test_a_new_loss_is_one_file_and_a_row_in_each_of_two_tables(tmp_path):
    """As docs/architecture.md says; its net, its twin and its test file come to that."""
    shutil.copytree(PACKAGE, tmp_path / "pylayers", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pylayers/losses/toy.py").write_text(LOSS)
    for file, table, row in (
        ("__init__.py", "LAYER_MODULES = {\n", NAME),
        ("tools/twins/elements.py", "PAIRS = {", PAIR),
    ):
        text = (tmp_path / "pylayers" / file).read_text()
        assert text.count(table) == 1
        (tmp_path / "pylayers" / file).write_text(text.replace(table, table + row))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
