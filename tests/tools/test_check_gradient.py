"""`pylayers check-gradient`: its options, and what it says of layers that raise, print, or lack something."""

import h5py
import numpy as np
import pytest

from pylayers.tools import cli
from pylayers.tools.check_gradient import check

pytestmark = pytest.mark.usefixtures("quick_children")

TWO = ["--bottom", "5,4", "--bottom", "5,4"]


def check_gradient(*arguments):
    return cli.main(["check-gradient", *arguments])


def refused(capsys, *arguments):
    """The one line of a command that ends with status 2."""
    capsys.readouterr()
    assert check_gradient(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ["SoftmaxWithLoss", "--bottom", "4,5", "--bottom", "4"],
        ["Exp", "--bottom", "4,5", "--range", "0:-0.5,0.5"],
        ["wrong_losses:ProbabilityLayer", "--bottom", "4,5", "--softmax", "0"],
        ["wrong_losses:ProbabilityLayer", "--bottom", "3,4,2", "--softmax", "0:-2"],
    ],
)
def test_bottoms_hold_what_the_layer_takes(arguments):
    assert check_gradient(*arguments) == 0


def test_without_softmax_probabilities_are_no_numbers(capsys):
    assert check_gradient("wrong_losses:ProbabilityLayer", "--bottom", "4,5") == 1
    assert "where forward is not finite" in capsys.readouterr().out


@pytest.fixture
def data(tmp_path):
    """A function that writes an HDF5 file with these data sets, and returns its path."""

    def write(**values):
        with h5py.File(tmp_path / "data.h5", "w") as file:
            for name, value in values.items():
                file[name.lstrip("_")] = value
        return str(tmp_path / "data.h5")

    return write


def test_data_of_bottoms_by_index_or_name(data):
    random = np.random.default_rng(0)
    path = data(_0=random.random((4, 5)) + 1, target=random.random((4, 5)) + 2)
    assert check_gradient("pylayers:EuclideanLossLayer", "--data", path) == 0
    path = data(_0=np.full((4, 5), 0.2, np.float32))
    assert check_gradient("wrong_losses:ProbabilityLayer", "--data", path) == 0
    assert check_gradient("EuclideanLoss", "--data", path, "--bottom", "4,5", "--bottom", "4,5") == 0


@pytest.mark.parametrize(
    ("values", "arguments", "message"),
    [
        ({"_0": np.ones((4, 5))}, ["--bottom", "4,6"], "bottom 0 has two shapes: (4, 5) in "),
        ({"_1": np.ones((4, 5))}, [], "bottom 0 has neither a data set in "),
        ({"pred": np.ones((4, 5))}, [], 'is no bottom: call the data sets "0", "1" and so on'),
        ({"_0": ["text"]}, [], "and no numbers"),
    ],
)
def test_data_that_do_not_fit(values, arguments, message, data, capsys):
    assert message in refused(capsys, "EuclideanLoss", "--data", data(**values), *arguments)


NET = """
layer { name: "in" type: "Input" top: "score" top: "%s" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "scaled" type: "Power" bottom: "score" top: "score" power_param { scale: 2 } }
layer { name: "loss" type: "Python" bottom: "score" bottom: "%s" top: "a" loss_weight: 1
  python_param { module: "wrong_losses" layer: "PrintingLayer" } }
layer { name: "loss" type: "Python" bottom: "score" bottom: "%s" top: "b" loss_weight: 1
  python_param { module: "wrong_losses" layer: "WrongSignLayer" } }
"""


@pytest.fixture
def net(tmp_path):
    """A function that writes NET with a name for its second input."""

    def write(name):
        (tmp_path / "net.prototxt").write_text(NET.replace("%s", name))
        return ["--net", str(tmp_path / "net.prototxt")]

    return write


def test_two_layers_of_one_name(net, capsys):
    line = refused(capsys, *net("target"), "--layer", "loss")
    assert "say which, --layer loss:1 (PrintingLayer), --layer loss:2 (WrongSignLayer)" in line
    assert check_gradient(*net("target"), "--layer", "loss:1") == 0
    assert check_gradient(*net("target"), "--layer", "loss:2") == 1
    assert 'has no layer "loss:3" in this phase' in refused(capsys, *net("target"), "--layer", "loss:3")


def test_data_of_a_nets_inputs(net, data, capsys):
    path = data(target=np.ones((4, 3)))
    assert check_gradient(*net("target"), "--layer", "loss:1", "--data", path) == 0
    path = data(targets=np.ones((4, 3)))
    message = 'holds the data sets "targets"; the net\'s inputs are "score", "target"'
    assert message in refused(capsys, *net("target"), "--layer", "loss:1", "--data", path)


def test_an_input_that_is_called_label_asks_for_labels(net, capsys):
    line = refused(capsys, *net("label"), "--layer", "loss:1")
    assert "bottom[1] (label) holds labels: give --labels 1:CLASSES" in line
    assert check_gradient(*net("label"), "--layer", "loss:1", "--labels", "1:3") == 0


def test_prints_are_a_note(net, capsys):
    assert check_gradient(*net("target"), "--layer", "loss:1") == 0
    *_, note = capsys.readouterr().out.splitlines()
    assert note.startswith("note   the layer prints ")
    assert note.endswith(" lines, which are left out; the first: setup")


def test_setup_runs_once_in_a_net_too(net):
    from wrong_losses import PrintingLayer

    PrintingLayer.setups.clear()
    options = cli.parser().parse_args(["check-gradient", *net("target"), "--layer", "loss:1"])
    assert check(options).passed
    assert len(PrintingLayer.setups) == 1


def test_an_error_in_the_users_layer_has_its_place(capsys):
    line = refused(capsys, "wrong_losses:RaisingLayer", *TWO)
    assert line.startswith(
        "pylayers check-gradient: wrong_losses:RaisingLayer: ValueError: shapes (5,4) and (5,4) not aligned"
    )
    assert "(tests/harness/layers/wrong_losses.py:" in line
    assert line.endswith(", in product: return np.dot(bottom[0].data, bottom[1].data))")


def test_a_module_that_cannot_be_imported_has_its_place(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_losses.py").write_text("import numpy\n\nnumpy.no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "broken_losses:Layer", *TWO)
    assert "cannot import broken_losses: AttributeError: " in line
    assert line.endswith(" (broken_losses.py:3, in <module>: numpy.no_such_thing)")


def test_a_second_top_is_asked_for_by_the_error(capsys):
    line = refused(capsys, "wrong_losses:TwoTopsLayer", *TWO)
    assert line.endswith(
        "in reshape: top[1].reshape(bottom[0].num)); the layer has 1 top here: --tops 2 gives it another"
    )
    assert check_gradient("wrong_losses:TwoTopsLayer", *TWO, "--tops", "2") == 0
    recurrent = "recurrent_param { num_output: 2 expose_hidden: true }"
    bottoms = [f"--bottom={shape}" for shape in ("3,2,4", "3,2", "1,2,2", "1,2,2")]
    assert refused(capsys, "LSTM", *bottoms, "--params", recurrent).endswith("; --tops 3 gives it as many")
    assert check_gradient("Slice", "--bottom", "4,6", "--tops", "2") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Exp", "--bottom", "4,5", "--range", "1:0,1"], "there is no bottom 1; the layer has 1, counted from 0"),
        (["Exp", "--bottom", "4,5", "--range", "0:0,1", "--softmax", "0"], "bottom 0 is filled by two of --labels, "),
        (
            ["Exp", "--bottom", "4,5", "--range", "0:5,6"],
            "leads out of the range 5 to 6 of bottom 0: give --step 0.004",
        ),
        (["Exp", "--bottom", "4,5", "--softmax", "0:2"], "bottom 0 has no axis 2; its shape is (4, 5)"),
    ],
)
def test_domains_that_do_not_fit(arguments, message, capsys):
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [["--range", "0:1"], ["--range", "0:2,1"], ["--softmax", "x"], ["--tops", "0"]])
def test_refuses_values(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        check_gradient("Exp", *arguments)
    assert f"argument {arguments[0]}: must " in capsys.readouterr().err
