"""`pylayers compare` on real nets: its exit status, its result, and each input that it refuses."""

import json
from pathlib import Path

import caffe
import h5py
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from harness import ROOT
from harness.nets import SOFTMAX, input_text, layer, load, python_layer

from pylayers.caffe_nets import read
from pylayers.caffe_nets.labels import Label, draw, find_labels
from pylayers.tools import cli, device
from pylayers.tools.compare import Settings, all_layers, passes, two_nets, values
from pylayers.tools.twins import PAIRS, Case, net_text

EXAMPLES = sorted(
    path.relative_to(ROOT) for path in (ROOT / "prototxt").glob("*.prototxt") if not path.stem.endswith("_builtin")
)
EUCLIDEAN = "prototxt/euclidean_loss.prototxt"
SOFTMAX_NET = "prototxt/weighted_softmax_loss.prototxt"
FLIPPED = [
    f'module: "{module}"\n    layer: "{layer}"'
    for module, layer in (("pylayers", "WeightedSoftmaxLossLayer"), ("user_losses", "FlippedLossLayer"))
]
pytestmark = pytest.mark.usefixtures("quick_children")
PNG = b"\x89PNG\r\n\x1a\n"


def twin(path):
    return str(path).replace(".prototxt", "_builtin.prototxt")


@pytest.fixture
def broken(tmp_path):
    """A function that copies a prototxt file with one text in it replaced by another."""

    def copy(path, old, new):
        text = (ROOT / path).read_text()
        assert old in text
        (tmp_path / "broken.prototxt").write_text(text.replace(old, new))
        return str(tmp_path / "broken.prototxt")

    return copy


def result_of(tmp_path, *arguments, status=0):
    path = tmp_path / "result.json"
    assert cli.main(["compare", *map(str, arguments), "--json", str(path)]) == status
    return json.loads(path.read_text())


def assert_refuses(capsys, *arguments, message):
    assert cli.main(["compare", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("phase", ["test", "train"])
def test_twins_are_within_tolerance(path, phase, capsys):
    assert cli.main(["compare", str(path), twin(path), "--phase", phase, "--repeat", "1"]) == 0
    printed = capsys.readouterr().out
    assert "within 1e-06" in printed
    assert "gradient data" in printed or "gradient anchor_data" in printed
    constant = {"smooth_l1_loss": '"outside_weight"', "focal_loss": '"label"', "dice_loss": '"label"'}.get(path.stem)
    if constant and phase == "test":
        assert f"{constant}, a constant of a loss in one of the nets" in printed


@pytest.mark.parametrize(
    ("path", "old", "new", "worst"),
    [
        (EUCLIDEAN, '"BATCH_SIZE"', '"FULL"', "loss"),
        (EUCLIDEAN, "loss_weight: 1", "loss_weight: 1.0001", "gradient"),
        (SOFTMAX_NET, "[1, 2, 0.5, 4, 1]", "[1, 2, 0.5, 4, 1.0001]", "loss"),
        (SOFTMAX_NET, FLIPPED[0], FLIPPED[1], "gradient"),
    ],
)
def test_broken_twin_is_not(path, old, new, worst, broken, tmp_path, capsys):
    result = result_of(tmp_path, broken(path, old, new), twin(path), status=1)
    assert not result["within_tolerance"]
    assert max(row["relative"] for row in result["rows"] if row["what"] == worst) > 1e-6
    assert "NOT within 1e-06" in capsys.readouterr().out


def test_parameters_of_a_are_copied_to_b(broken):
    other = broken(twin(EUCLIDEAN), 'type: "xavier"', 'type: "constant" value: 3')
    assert cli.main(["compare", EUCLIDEAN, other]) == 0
    assert cli.main(["compare", other, EUCLIDEAN]) == 0


def test_parameters_of_another_name_stay(broken):
    other = broken(twin(EUCLIDEAN), 'name: "pred"', 'name: "pred2"')
    assert cli.main(["compare", EUCLIDEAN, other]) == 0  # from one seed: the fillers draw the same
    constant = other.replace("broken", "constant")
    text = Path(other).read_text()
    Path(constant).write_text(text.replace('type: "xavier"', 'type: "constant" value: 3'))
    assert cli.main(["compare", EUCLIDEAN, constant]) == 1


def test_tolerance_decides(broken):
    slightly = broken(EUCLIDEAN, "loss_weight: 1", "loss_weight: 1.0001")
    assert cli.main(["compare", slightly, twin(EUCLIDEAN), "--tolerance", "1e-3"]) == 0
    assert cli.main(["compare", slightly, twin(EUCLIDEAN), "--tolerance", "1e-5"]) == 1


def test_loss_weight_0_hides_what_1_shows(broken):
    wrong = broken(EUCLIDEAN, "loss_weight: 1", "loss_weight: 1.0001")
    assert cli.main(["compare", wrong, twin(EUCLIDEAN), "--loss-weight", "0"]) == 0
    assert cli.main(["compare", wrong, twin(EUCLIDEAN), "--loss-weight", "0", "--loss-weight", "1"]) == 1


def test_a_gradient_that_is_missing_is_a_difference(tmp_path):
    stop = (
        'layer { name: "stop" type: "Power" bottom: "target" top: "still" power_param { scale: 0 shift: 1 } }\n'
        'layer { name: "loss2" type: "EuclideanLoss" bottom: "pred" bottom: "still" top: "loss" }'
    )
    head = (ROOT / EUCLIDEAN).read_text().split("# E = 1/N")[0]
    (tmp_path / "stop.prototxt").write_text(head + stop)
    result = result_of(tmp_path, tmp_path / "stop.prototxt", EUCLIDEAN, status=1)
    assert any(row["blob"] == "target" and row["relative"] == 1 for row in result["rows"])


def test_nan_is_a_difference(tmp_path):
    text = input_text("pred", (2, 3)) + layer("Power", ["pred"], params="power_param { power: 0.5 }")
    (tmp_path / "root.prototxt").write_text(text)  # NaN for what is negative
    result = result_of(tmp_path, *[tmp_path / "root.prototxt"] * 2, status=1)
    assert not result["within_tolerance"]
    assert result["rows"][0]["relative"] is None


def test_result_as_json(tmp_path, capsys):
    result = result_of(tmp_path, "prototxt/auxiliary_loss.prototxt", twin("prototxt/auxiliary_loss.prototxt"))
    assert result["loss_weights"] == [1, 0.3, -2]
    assert [(row["what"], row["blob"], row["loss_weight"]) for row in result["rows"]][:14] == [
        ("loss", "auxiliary_loss", 1),
        ("loss", "loss", 1),
        ("gradient", "data", 1),
        *(
            ("parameter", f"{name}[{index}]", 1)
            for name in ("hidden", "auxiliary_scores", "hidden2", "scores")
            for index in range(2)
        ),
        ("loss", "auxiliary_loss", 0.3),
        ("loss", "loss", 0.3),
        ("gradient", "data", 0.3),
    ]
    for row in result["rows"]:
        assert 0 <= row["relative"] <= 1e-6
        exact = [row["float64_a"], row["float64_b"]]
        assert all(value <= 1e-6 for value in exact) if row["what"] == "loss" else exact == [None, None]
    assert set(result["times_ms"]["a"]) == {"forward", "backward"}
    assert {"cpu", "cores", "threads", "numpy", "caffe", "date"} <= set(result["machine"])


def test_gradient_against_float64_where_the_loss_takes_the_input(tmp_path, broken, capsys):
    """It is g times the formula's: a wrong loss weight in B shows against float64 too, in B alone."""
    wrong = broken(EUCLIDEAN, "loss_weight: 1", "loss_weight: 1.5")
    result = result_of(tmp_path, EUCLIDEAN, wrong, status=1)
    rows = [row for row in result["rows"] if (row["what"], row["blob"]) == ("gradient", "target")]
    assert len(rows) == 3
    for row in rows:
        assert row["float64_a"] < 1e-6
        assert row["float64_b"] == pytest.approx(1 / 3, rel=1e-5)


def test_blob_that_other_layers_take_has_no_float64_gradient(tmp_path):
    bottoms = input_text("pred", (2, 3)) + input_text("target", (2, 3))
    other = 'layer { name: "other" type: "EuclideanLoss" bottom: "pred" bottom: "target" top: "other" }'
    (tmp_path / "net.prototxt").write_text(bottoms + python_layer("EuclideanLossLayer", ["pred", "target"]) + other)
    rows = result_of(tmp_path, *[tmp_path / "net.prototxt"] * 2)["rows"]
    assert {(row["blob"], row["float64_a"] is None) for row in rows} == {
        ("loss", False),
        ("other", True),
        ("pred", True),
        ("target", True),
    }


def test_layers_that_lead_to_no_loss_are_left_out(tmp_path, broken):
    """Accuracy has no backward pass: under force_backward it would end the process."""
    accuracy = 'layer { name: "accuracy" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy" }\n'
    with_accuracy = broken(SOFTMAX_NET, 'layer {\n  name: "loss"', accuracy + 'layer {\n  name: "loss"')
    result_of(tmp_path, with_accuracy, twin(SOFTMAX_NET))


@pytest.mark.usefixtures("demo_data")
def test_nets_that_read_their_own_data(tmp_path):
    result = result_of(tmp_path, "prototxt/demo/digits.prototxt", "prototxt/demo/digits_builtin.prototxt")
    found = {(row["what"], row["blob"]) for row in result["rows"] if row["what"] != "parameter"}
    assert found == {("loss", "loss"), ("gradient", "data")}
    assert result["notes"] == ['both nets got what A read or drew: "data", "label"']


SHUFFLED = (
    'layer {{ name: "{name}" type: "HDF5Data" top: "pred" top: "target" '
    'hdf5_data_param {{ source: "{list}" batch_size: 5 shuffle: {shuffle} }} }}\n'
)


@pytest.fixture
def shuffled(tmp_path):
    """A function that writes a net whose data layer shuffles, or does not."""
    values = np.random.default_rng(0).standard_normal((2, 40, 3))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["pred"], file["target"] = values
    (tmp_path / "list.txt").write_text(f"{tmp_path}/data.h5\n")

    def write(name="net", shuffle="true", more=""):
        text = SHUFFLED.format(name=name, list=tmp_path / "list.txt", shuffle=shuffle)
        path = tmp_path / f"{name}.prototxt"
        path.write_text(text + more + layer("EuclideanLoss", ["pred", "target"]))
        return path

    return write


@pytest.mark.parametrize("in_place", ["", 'layer { name: "s" type: "Power" bottom: "pred" top: "pred" }\n'])
def test_both_nets_get_the_data_that_a_has_shuffled(shuffled, in_place, tmp_path, capsys):
    in_place = in_place.replace(" }", " power_param { scale: 3 } }")
    pair = shuffled("a", "true", in_place), shuffled("b", "false", in_place)
    for a, b in (pair, pair[:1] * 2, pair[::-1]):
        result = result_of(tmp_path, a, b)
        assert {row["absolute"] for row in result["rows"]} == {0}
    assert 'both nets got what A read or drew: "pred", "target"\n' in capsys.readouterr().out


def test_an_input_of_one_net_may_be_read_by_the_other(shuffled, tmp_path):
    bottoms = input_text("pred", (5, 3)) + input_text("target", (5, 3))
    (tmp_path / "inputs.prototxt").write_text(bottoms + layer("EuclideanLoss", ["pred", "target"]))
    result_of(tmp_path, shuffled(), tmp_path / "inputs.prototxt")
    result_of(tmp_path, tmp_path / "inputs.prototxt", shuffled())


# What is compared.


def euclidean_net(tmp_path, name, layers):
    path = tmp_path / f"{name}.prototxt"
    path.write_text(input_text("pred", (4, 3)) + input_text("target", (4, 3)) + layers)
    return path


LOSS = layer("EuclideanLoss", ["pred", "target"])


def extra(weight, params="", name="extra", kind="EuclideanLoss"):
    text = layer(kind, ["pred", "target"], tops=name, loss_weight=weight, params=params)
    return text.replace('name: "loss"', f'name: "{name}"')


def test_a_loss_of_weight_0_is_compared(tmp_path, capsys):
    python = extra(0, """python_param { module: "pylayers" layer: "EuclideanLossLayer" }""", kind="Python")
    full = python.replace('Layer" }', """Layer" param_str: '{"normalization": "FULL"}' }""")
    paths = [
        euclidean_net(tmp_path, name, LOSS + layers)
        for name, layers in (("builtin", extra(0)), ("python", python), ("full", full))
    ]
    result_of(tmp_path, *paths[:2])
    assert 'the loss weight of "extra" is 0: only the values were compared' in capsys.readouterr().out
    result = result_of(tmp_path, paths[0], paths[2], status=1)
    assert {row["blob"] for row in result["rows"] if row["relative"]} == {"extra"}


def test_a_loss_of_weight_0_that_one_net_lacks_is_named(tmp_path, capsys):
    a, b = euclidean_net(tmp_path, "a", LOSS + extra(0)), euclidean_net(tmp_path, "b", LOSS)
    for arguments, side in (((a, b), "A"), ((b, a), "B")):
        result_of(tmp_path, *arguments)
        assert f'left out: "extra" of {side}, a loss of weight 0 that the other lacks\n' in capsys.readouterr().out
    result_of(tmp_path, b, b)
    assert "weight 0" not in capsys.readouterr().out


def test_a_loss_without_a_top_is_a_loss(tmp_path):
    bare = euclidean_net(tmp_path, "bare", LOSS.replace('top: "loss"', "").replace("loss_weight: 1", ""))
    assert {row["blob"] for row in result_of(tmp_path, bare, bare)["rows"]} == {"loss", "pred", "target"}
    result_of(tmp_path, bare, euclidean_net(tmp_path, "named", LOSS))


def test_gradients_of_parameters_are_compared(tmp_path):
    head = 'layer { name: "bias" type: "%s" bottom: "pred" top: "moved" %s }\n'
    loss = layer("EuclideanLoss", ["moved", "target"])
    wrong = 'python_param { module: "user_losses" layer: "WrongBiasLayer" }'
    paths = [
        euclidean_net(tmp_path, name, head % kind + loss)
        for name, kind in (("right", ("Bias", "")), ("wrong", ("Python", wrong)))
    ]
    result = result_of(tmp_path, *paths, status=1)
    assert {(row["what"], row["blob"]) for row in result["rows"] if row["relative"]} == {("parameter", "bias[0]")}
    assert {row["relative"] for row in result["rows"]} == {0, 0.5}
    assert "parameter" in {row["what"] for row in result_of(tmp_path, paths[0], paths[0])["rows"]}


def test_the_rounding_of_a_bias_without_effect_is_no_difference(tmp_path):
    """BatchNorm takes the bias out again: its gradient is 0, but for rounding that the two losses do not share."""
    head = input_text("data", (64, 5)) + input_text("label", (64,))
    head += (
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" '
        'inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }\n'
        'layer { name: "scores" type: "BatchNorm" bottom: "fc" top: "scores" }\n'
    )
    (tmp_path / "a.prototxt").write_text(head + python_layer(SOFTMAX, ["scores", "label"]))
    (tmp_path / "b.prototxt").write_text(head + layer("SoftmaxWithLoss", ["scores", "label"]))
    result = result_of(tmp_path, tmp_path / "a.prototxt", tmp_path / "b.prototxt", "--phase", "train")
    bias = [row for row in result["rows"] if row["blob"] == "fc[1]"]
    assert 0 < bias[0]["absolute"] < 1e-7
    assert {"fc[0]", "scores[0]"} - {row["blob"] for row in result["rows"]} == {"scores[0]"}  # statistics: no gradient


@pytest.mark.parametrize("order", [1, -1])
def test_float64_for_the_kits_loss_in_either_net(order, tmp_path):
    rows = result_of(tmp_path, *[EUCLIDEAN, twin(EUCLIDEAN)][::order])["rows"]
    for row in rows:
        known = row["blob"] in ("loss", "target")
        assert (row["float64_a"] is not None) is (row["float64_b"] is not None) is known


def test_rows_are_said_once_where_the_loss_weight_makes_no_difference(broken, capsys):
    cli.main(["compare", EUCLIDEAN, twin(EUCLIDEAN)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows if row[:2] in (["loss", "loss"], ["gradient", "data"])] == ["all", "all"]
    wrong = broken(EUCLIDEAN, "loss_weight: 1", "loss_weight: 1.0001")
    cli.main(["compare", wrong, twin(EUCLIDEAN)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows if row[:2] == ["loss", "loss"]] == ["all"]
    assert [row[2] for row in rows if row[:2] == ["gradient", "data"]] == ["1", "0.3", "-2"]


# What draws at random.

DROPOUT = 'layer { name: "%s" type: "Dropout" bottom: "pred" top: "pred" }\n'
DRAWN = 'layer { name: "noise" type: "DummyData" top: "%s" dummy_data_param { %s shape { dim: 4 dim: 3 } } }\n'
GAUSSIAN = 'data_filler { type: "gaussian" std: 1 }'


def test_dropout_draws_the_same_in_both_nets(tmp_path, capsys):
    a = euclidean_net(tmp_path, "a", DROPOUT % "drop" + LOSS)
    b = euclidean_net(tmp_path, "b", DRAWN % ("unused", GAUSSIAN) + DROPOUT % "other" + LOSS)
    result = result_of(tmp_path, a, b, "--phase", "train")
    assert {row["relative"] for row in result["rows"]} == {0}
    assert 'drew the same in both nets: Dropout "drop"\n' in capsys.readouterr().out
    result_of(tmp_path, a, b)
    assert "drew" not in capsys.readouterr().out


def test_two_dropouts_draw_each_its_own(tmp_path):
    drops = DROPOUT % "one" + (DROPOUT % "two").replace("pred", "target")
    net = load(euclidean_net(tmp_path, "a", drops + LOSS).read_text(), caffe.TRAIN)
    ones = {name: np.ones((4, 3)) for name in ("pred", "target")}
    passes.forward(net, ones, 1)
    drawn = [(net.blobs[name].data > 0).tolist() for name in ("pred", "target")]
    assert drawn[0] != drawn[1]
    passes.forward(net, ones, 1)
    assert [(net.blobs[name].data > 0).tolist() for name in ("pred", "target")] == drawn


def test_a_difference_below_dropout_is_a_difference(tmp_path):
    a = euclidean_net(tmp_path, "a", DROPOUT % "drop" + LOSS)
    b = euclidean_net(tmp_path, "b", DROPOUT % "drop" + LOSS.replace("loss_weight: 1", "loss_weight: 1.1"))
    result_of(tmp_path, a, b, "--phase", "train", status=1)


def test_dropout_in_one_net_alone_is_said(tmp_path, capsys):
    a, b = euclidean_net(tmp_path, "a", DROPOUT % "drop" + LOSS), euclidean_net(tmp_path, "b", LOSS)
    message = (
        'the nets differ, but nothing is proven: in phase TRAIN Dropout "drop" in A draw at random, and the other net '
        "does not draw the same; --phase test compares without\n"
    )
    assert_refuses(capsys, a, b, "--phase", "train", message=message)
    result_of(tmp_path, a, b)


@pytest.mark.parametrize("name", ["NoisyLossLayer", "SeededLossLayer"])
def test_a_python_layer_that_draws_at_random(name, tmp_path, capsys):
    net = euclidean_net(tmp_path, "a", python_layer(name, ["pred", "target"], module="user_losses"))
    if name == "SeededLossLayer":
        result_of(tmp_path, net, net)
    else:
        message = 'nothing is proven: the layer "loss" of A gives other values each time, on the same bottoms'
        assert_refuses(capsys, net, net, message=message)


def test_plot_is_a_png(tmp_path):
    assert cli.main(["compare", EUCLIDEAN, twin(EUCLIDEAN), "--plot", str(tmp_path / "x.png")]) == 0
    picture = (tmp_path / "x.png").read_bytes()
    assert picture.startswith(PNG)
    assert len(picture) > 10000
    assert list(tmp_path.iterdir()) == [tmp_path / "x.png"]


def test_same_seed_same_numbers(tmp_path):
    def rows(seed):
        result = result_of(tmp_path, EUCLIDEAN, twin(EUCLIDEAN), "--seed", seed)
        return [row["absolute"] for row in result["rows"]], [row["float64_a"] for row in result["rows"]]

    assert rows(3) == rows(3)
    assert rows(3) != rows(4)


# Labels.


def parsed(text):
    return text_format.Parse(text, caffe_pb2.NetParameter()).layer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (layer("SoftmaxWithLoss", ["scores", "label"]), (5, None)),
        (layer("SoftmaxWithLoss", ["scores", "label"], params="loss_param { ignore_label: 7 }"), (5, 7)),
        (layer("SoftmaxWithLoss", ["scores", "label"], params="softmax_param { axis: 2 }"), (4, None)),
        (layer("InfogainLoss", ["scores", "label"], params="infogain_loss_param { axis: -1 }"), (4, None)),
        (layer("HingeLoss", ["scores", "label"]), (20, None)),
        (layer("Accuracy", ["scores", "label"], loss_weight=None), (5, None)),
        (python_layer(SOFTMAX, ["scores", "label"], '{"axis": -1, "ignore_label": 9}'), (4, 9)),
        (layer("EuclideanLoss", ["scores", "label"]), None),
        (python_layer("EuclideanLossLayer", ["scores", "label"]), None),
    ],
)
def test_labels_rule(text, expected):
    net = load(input_text("scores", (3, 5, 4)) + input_text("label", (3, 4)))
    assert find_labels(parsed(text), net) == ({"label": Label(*expected)} if expected else {})


def test_labels_of_two_layers_suit_both():
    net = load(input_text("scores", (3, 5)) + input_text("few", (3, 2)) + input_text("label", (3,)))
    text = layer("SoftmaxWithLoss", ["scores", "label"], params="loss_param { ignore_label: 7 }")
    text += layer("SoftmaxWithLoss", ["few", "label"])
    assert find_labels(parsed(text), net) == {"label": Label(2, None)}


def test_random_labels_are_in_range_and_some_ignored():
    drawn = draw(np.random.default_rng(0), (1000,), Label(5, 255))
    assert set(np.unique(drawn)) == {0, 1, 2, 3, 4, 255}


def test_labels_from_the_command_line(tmp_path):
    """A layer that the rule does not know: without --labels it is fed numbers that are no inputs."""
    text = input_text("prob", (4, 10)) + input_text("label", (4,))
    text += 'layer { name: "soft" type: "Softmax" bottom: "prob" top: "soft" }\n'
    text += layer("MultinomialLogisticLoss", ["soft", "label"])
    (tmp_path / "net.prototxt").write_text(text)
    net = tmp_path / "net.prototxt"
    assert cli.main(["compare", str(net), str(net), "--labels", "label:10"]) == 0


@pytest.mark.parametrize("text", ["label", "label:", ":10", "label:0", "label:x", "label:-3"])
def test_refuses_labels(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["compare", EUCLIDEAN, twin(EUCLIDEAN), "--labels", text])
    assert f"such as label:10, found {text!r}" in capsys.readouterr().err


def test_refuses_labels_of_a_blob_that_is_no_input(capsys):
    message = '--labels names the blob "pred", which is no input; the inputs are "data", "target"'
    assert_refuses(capsys, EUCLIDEAN, twin(EUCLIDEAN), "--labels", "pred:10", message=message)


def test_weights_are_positive(tmp_path):
    bottoms = input_text("pred", (50, 3)) + input_text("target", (50, 3)) + input_text("weight", (50, 3))
    (tmp_path / "net.prototxt").write_text(bottoms + python_layer("EuclideanLossLayer", ["pred", "target", "weight"]))
    pair = [read.read(tmp_path / "net.prototxt", "test")] * 2
    drawn = values.of_inputs(pair, [load(param) for param in pair], Settings())
    assert (drawn["weight"] > 0).all()
    assert (drawn["pred"] < 0).any()
    result = result_of(tmp_path, *[tmp_path / "net.prototxt"] * 2)
    assert {row["blob"] for row in result["rows"]} == {"loss", "pred", "target"}


def test_inputs_of_the_old_format(tmp_path):
    text = "".join(f'input: "{name}" input_shape {{ dim: 2 dim: 3 }}\n' for name in ("pred", "target"))
    (tmp_path / "net.prototxt").write_text(text + layer("EuclideanLoss", ["pred", "target"]))
    result = result_of(tmp_path, *[tmp_path / "net.prototxt"] * 2)
    assert {row["blob"] for row in result["rows"]} == {"loss", "pred", "target"}


# Data.


@pytest.fixture
def data(tmp_path):
    """A function that writes an HDF5 file for the Euclidean nets; arguments replace or add data sets."""

    def write(**changes):
        with h5py.File(tmp_path / "data.h5", "w") as file:
            for name, value in {"data": np.ones((16, 20)), "target": np.ones((16, 10)), **changes}.items():
                if value is not None:
                    file[name] = value
        return tmp_path / "data.h5"

    return write


def test_data_from_hdf5(data, tmp_path):
    path = data(target=np.full((16, 10), 1000.0))
    result = result_of(tmp_path, EUCLIDEAN, twin(EUCLIDEAN), "--data", path)
    (target,) = (row for row in result["rows"] if row["blob"] == "target" and row["loss_weight"] == 1)
    assert target["float64_a"] < 1e-6
    random = result_of(tmp_path, EUCLIDEAN, twin(EUCLIDEAN))
    assert [row["float64_a"] for row in result["rows"]] != [row["float64_a"] for row in random["rows"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None}, 'holds the data sets "data"; the nets\' inputs are "data", "target"'),
        ({"more": np.ones(3)}, 'holds the data sets "data", "more", "target"; the nets\' inputs are'),
        ({"target": np.ones((16, 11))}, "has shape (16, 11); the nets' input has (16, 10)"),
        ({"target": np.full((16, 10), b"x")}, "and no numbers"),
    ],
)
def test_refuses_data(changes, message, data, capsys):
    assert_refuses(capsys, EUCLIDEAN, twin(EUCLIDEAN), "--data", data(**changes), message=message)


def test_refuses_data_that_is_no_hdf5(capsys):
    assert_refuses(capsys, EUCLIDEAN, twin(EUCLIDEAN), "--data", "README.md", message="it is no HDF5 file")
    assert_refuses(capsys, EUCLIDEAN, twin(EUCLIDEAN), "--data", "no.h5", message="cannot read no.h5: ")


def test_refuses_data_with_labels_out_of_range(tmp_path, capsys):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = np.ones((32, 20))
        file["label"] = np.full(32, 5)
    message = "holds 5 at (0,); a label must be a whole number from 0 to 4"
    assert_refuses(capsys, SOFTMAX_NET, twin(SOFTMAX_NET), "--data", tmp_path / "data.h5", message=message)


# Nets.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.prototxt", "cannot read missing.prototxt: No such file"),
        ("prototxt", "cannot read prototxt: Is a directory"),
        ("README.md", "README.md is not a net: 3:1 : "),
        ("/dev/null", "/dev/null is not a net: it has no layer"),
        ("prototxt/weighted_softmax_loss_builtin.binaryproto", "is not text; give a prototxt file"),
        (SOFTMAX_NET, 'inputs do not match: A has "data", "target", B has "data", "label"'),
    ],
)
def test_refuses_file(path, message, capsys):
    assert_refuses(capsys, EUCLIDEAN, path, message=message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("loss_weight: 1", "", "has no loss in phase TEST: no layer has a loss_weight"),
        (
            'layer {\n  name: "pred"\n  type: "InnerProduct"',
            'layers {\n  name: "pred"',
            'has "layers" of the old format',
        ),
        ('top: "loss"', 'top: "cost"', 'losses do not match: A has "cost", B has "loss"'),
        ("dim: 16 dim: 20", "dim: 16 dim: 21", 'the blob "data" has shape (16, 21) in A and (16, 20) in B'),
        ("dim: 16 dim: 10", "dim: 16 dim: 9", "EuclideanLossLayer: bottom[1] (target) has shape (16, 9)"),
        ("EuclideanLossLayer", "NoSuchLayer", "module 'pylayers' has no attribute 'NoSuchLayer'"),
        ('module: "pylayers"', 'module: "no_such"', "ModuleNotFoundError: No module named 'no_such'"),
        ('"BATCH_SIZE"', '"MEAN"', 'param_str key "normalization" must be one of "BATCH_SIZE", "FULL", "NONE"'),
        ("InnerProduct", "NoSuchType", "Unknown layer type: NoSuchType"),
        ('bottom: "pred"', 'bottom: "prediction"', "Unknown bottom blob 'prediction'"),
    ],
)
def test_refuses_net(old, new, message, broken, capsys):
    assert_refuses(capsys, broken(EUCLIDEAN, old, new), twin(EUCLIDEAN), message=message)


@pytest.mark.skipif(hasattr(caffe._caffe.Blob, "_gpu_data_ptr"), reason="this Caffe is built with CUDA")
@pytest.mark.parametrize("which", [[EUCLIDEAN, twin(EUCLIDEAN)], ["--all"]])
def test_refuses_gpu_where_caffe_has_no_cuda(which, capsys):
    assert_refuses(capsys, *which, "--device", "gpu", message="this Caffe is built for the CPU alone")


# --all.


def test_all_has_a_row_for_each_pair_within_tolerance_and_80_columns(tmp_path, capsys):
    plot = tmp_path / "all.png"
    result = result_of(tmp_path, "--all", "--loss-weight", "-2", "--repeat", "1", "--plot", plot)
    assert [row["pair"] for row in result["rows"]] == list(PAIRS)
    assert sum(row["cases"] for row in result["rows"]) == len(all_layers.cases())
    for row in result["rows"]:
        assert all(0 <= row[key] <= 1e-6 for key in ("loss", "gradient", "float64_python"))
        assert (row["twin"] is None) == (row["float64_builtin"] is None) == (row["time_ratio"] is None)
        assert row["failed"] == []
    assert plot.read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    assert f"all {len(all_layers.cases())} cases within 1e-06" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_all_names_the_cases_that_fail(tmp_path, capsys, monkeypatch):
    cases = [Case("euclidean", (3, 4)), Case("euclidean", (1, 4))]
    monkeypatch.setattr(all_layers, "cases", lambda: cases)
    build = PAIRS["euclidean"].build
    wrong = PAIRS["euclidean"]._replace(
        build=lambda case, folder: build(case._replace(options={"normalization": "NONE"}), folder)._replace(
            python=build(case, folder).python
        )
    )
    monkeypatch.setitem(PAIRS, "euclidean", wrong)
    result = result_of(tmp_path, "--all", status=1)
    # With one item in the batch, BATCH_SIZE and NONE are the same.
    assert result["rows"][0]["failed"] == [{"shape": [3, 4], "options": {}}]
    assert "NOT within 1e-06: Euclidean, shape (3, 4)" in capsys.readouterr().out


def test_cases_are_small_enough_for_float32_sums():
    for case in all_layers.cases():
        assert np.prod(case.shape) <= 100_000


def test_twins_hold_the_loss_weight_and_the_ones(tmp_path):
    case = Case("channel-sum", (2, 3, 4, 4), target=(2, 1, 4, 4))
    python, builtin = (load(text) for text in net_text(case, Path(tmp_path)))
    assert python.blob_loss_weights["loss"] == builtin.blob_loss_weights["loss"] == 1
    np.testing.assert_array_equal(builtin.params["sum_pred"][0].data, np.ones((1, 3, 1, 1)))


def test_difference_is_relative_to_the_largest_magnitude():
    absolute, relative, errors = two_nets._difference(np.array([4.0, 0, 1]), np.array([4.0, 0.5, 1]))
    assert (absolute, relative) == (0.5, 0.125)
    assert sum(errors) == 1


def test_on_the_gpu_times_begin_and_end_when_all_is_done(monkeypatch):
    waits = []
    monkeypatch.setattr(device, "use", lambda _: None)
    monkeypatch.setattr(device, "wait", lambda: waits.append(1))
    pair = [read.read(path, "test") for path in (EUCLIDEAN, twin(EUCLIDEAN))]
    assert two_nets.compare(pair, Settings(device="gpu", repeat=3))["within_tolerance"]
    assert len(waits) == 2 * 2 * 3
