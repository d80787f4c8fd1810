"""Several ranks against one process with the batches of all; they are threads here, and test_mpi.py has processes."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import user_losses
from caffe.proto import caffe_pb2
from harness import ROOT
from harness.training import DATA, difference, parameters, write, write_data

import pylayers
from pylayers.errors import UserError
from pylayers.runtime import blobs, mode
from pylayers.train import data, gradients
from pylayers.train.notes import divides_itself
from pylayers.train.testing import SharedTest

DATABASE = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  data_param {{ source: "rows_lmdb" batch_size: {batch} {data} }} }}
"""
ROWS = """
import caffe, numpy as np

class Rows(caffe.Layer):
    first = 0
    def setup(self, bottom, top):
        top[0].reshape(8, 6)
        top[1].reshape(8)
    def reshape(self, bottom, top): pass
    def forward(self, bottom, top): top[0].data[...] = np.arange(48).reshape(8, 6) + self.first
    def backward(self, top, propagate_down, bottom): pass

class DealtRows(Rows):
    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.first = caffe.solver_rank()
"""
PYTHON = 'layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{ module: "rows" {data} }} }}'
DUMMY = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{ shape {{ dim: {batch} dim: 6 }} shape {{ dim: {batch} }} {data} }} }}
"""


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "more",
    [
        "",
        'type: "Nesterov" momentum: 0.9 iter_size: 2 clip_gradients: 0.1',
        'type: "AdaGrad"',
        'type: "RMSProp" rms_decay: 0.9',
        'type: "AdaDelta" momentum: 0.9 delta: 1e-6',
        'type: "Adam" momentum: 0.9 momentum2: 0.99',
        'regularization_type: "L1"',
    ],
)
def test_every_solver(more, ranks, train_in_threads):
    write("one", batch=8 * ranks, more=more, iterations=10, rate=0.01)
    write("many", more=more, iterations=10, rate=0.01)
    train_in_threads("one", 1)
    train_in_threads("many", ranks)
    assert difference("many_iter_10.caffemodel", "one_iter_10.caffemodel") < 1e-6


@pytest.mark.parametrize("iter_size", [1, 2])
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("WeightedSoftmaxLossLayer", '{"ignore_label": 3}'),
        ("WeightedSoftmaxLossLayer", '{"ignore_label": 3, "normalization": "NONE"}'),
        (
            "WeightedSoftmaxLossLayer",
            '{"ignore_label": 3, "normalization": "WEIGHT_SUM", "class_weights": [1, 5, 0.2]}',
        ),
        ("FocalLossLayer", '{"ignore_label": 3}'),
        ("DiceLossLayer", '{"ignore_label": 3}'),
        ("DiceLossLayer", '{"ignore_label": 3, "per_item": true}'),
    ],
)
def test_labels_that_the_ranks_ignore_unequally(layer, options, iter_size, train_in_threads):
    """Of each batch of 8 the first rank has 8 labels, and the other one 2."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 48)
    labels[1::2][np.arange(24) % 4 > 0] = 3
    write_data(data=random.normal(size=(48, 6)), label=labels)
    more = {"iterations": 10, "rate": 0.02, "more": f"iter_size: {iter_size}", "layer": layer, "options": options}
    write("one", batch=16, **more)
    write("many", **more)
    train_in_threads("one", 1)
    train_in_threads("many", 2)
    assert difference("many_iter_10.caffemodel", "one_iter_10.caffemodel") < 1e-6
    train_in_threads("many", 2, "--local-normalizer")
    same = layer == "DiceLossLayer" and "per_item" in options
    assert same or difference("many_iter_10.caffemodel", "one_iter_10.caffemodel") > 1e-5


def test_two_hundred_iterations(train_in_threads):
    write("one", batch=16, iterations=200)
    write("many", iterations=200)
    train_in_threads("one", 1)
    train_in_threads("many", 2)
    assert difference("many_iter_200.caffemodel", "one_iter_200.caffemodel") < 1e-4


def test_tests_are_shared_and_say_what_one_process_says(train_in_threads):
    write("one", batch=16, more="test_compute_loss: true", tests=5)
    write("many", more="test_compute_loss: true", tests=5)
    one, many = ([line for line in train_in_threads(*how) if "est" in line] for how in (("one", 1), ("many", 2)))
    assert len(one) == len(many) == 15
    for ours, theirs in zip(many, one):
        assert re.sub(r"\d\.\d+", "", ours) == re.sub(r"\d\.\d+", "", theirs)
        for number, other in zip(*(re.findall(r"\d\.\d+", line) for line in (ours, theirs))):
            assert float(number) == pytest.approx(float(other), rel=1e-5)


def test_running_sums_of_batch_norm_are_averaged(train_in_threads):
    """Those of the mean are then those of one process; each rank's variance is around its own mean."""
    norm = 'layer { name: "norm" type: "BatchNorm" bottom: "data" top: "normal" }'
    norm += 'layer { name: "no" type: "Silence" bottom: "normal" }'
    write("one", batch=16, layers=norm)
    write("many", layers=norm)
    train_in_threads("one", 1)
    train_in_threads("many", 2)
    one, many = (parameters(f"{name}_iter_20.caffemodel", layer="norm") for name in ("one", "many"))
    (mean, variance, count), (ours, our_variance, our_count) = one, many
    np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=1e-6)
    assert our_count == count
    assert not np.allclose(our_variance, variance, rtol=1e-3)


def test_goes_on_in_the_middle_of_the_data(train_in_threads):
    write("whole", more="snapshot: 11")
    write("rest")
    train_in_threads("whole", 3)
    train_in_threads("rest", 3, "--snapshot", "whole_iter_11.solverstate")
    np.testing.assert_equal(parameters("rest_iter_20.caffemodel"), parameters("whole_iter_20.caffemodel"))


@pytest.mark.skipif(
    blobs.CUDA_BUILD and mode.find_driver() is None, reason="a Caffe for CUDA starts no Data layer without a driver"
)
def test_goes_on_in_an_lmdb_without_whole_epochs(folder, train_in_threads, monkeypatch):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open("rows_lmdb", map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for index, row in enumerate(np.random.default_rng(0).normal(size=(20, 6))):
            datum = caffe_pb2.Datum(channels=6, height=1, width=1, float_data=row, label=index % 3)
            transaction.put(f"{index:04}".encode(), datum.SerializeToString())
    for name in ("whole", "rest"):
        write(name, source=DATABASE, data="backend: LMDB", more="snapshot: 7", tests=3)
    train_in_threads("whole", 1)
    skipped = []
    real = data.skip
    monkeypatch.setattr(
        data, "skip", lambda net, indices, batches: (skipped.append(batches), real(net, indices, batches))
    )
    train_in_threads("rest", 1, "--snapshot", "whole_iter_7.solverstate")
    np.testing.assert_equal(parameters("rest_iter_20.caffemodel"), parameters("whole_iter_20.caffemodel"))
    assert skipped == [2, 1]  # an epoch is 5 batches; 7 batches of training, and 3 tests of 2


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (
            DATABASE,
            "",
            'layer "data": rows_lmdb is read as LEVELDB, Caffe\'s default, which one process alone can open',
        ),
        (
            PYTHON,
            'layer: "Rows"',
            r'layer "data" \(Python\) has given rank 0 and rank 1 the same first batch: let a Python',
        ),
        (DUMMY, "", r'layer "data" \(DummyData\) has given rank 0 and rank 1 the same first batch'),
        (DUMMY, 'data_filler { type: "gaussian" } data_filler { value: 1 }', None),
        (PYTHON, 'layer: "DealtRows"', None),
    ],
)
def test_the_same_rows_on_all_ranks(source, settings, message, folder, train_in_threads, monkeypatch):
    Path("rows_lmdb").mkdir()
    Path("rows.py").write_text(ROWS)
    monkeypatch.syspath_prepend(folder)
    write("same", source=source, data=settings, iterations=2)
    if message is None:
        train_in_threads("same", 2)
        return
    with pytest.raises(UserError, match=message):
        train_in_threads("same", 2)
    if source is not DATABASE:
        train_in_threads("same", 2, "--same-data")


@pytest.mark.parametrize("kind", ["ImageData", "WindowData", "MemoryData", "Input"])
def test_other_data_layers_are_refused(kind, train_in_threads):
    """Before Caffe makes them: without OpenCV it has no such layer."""
    write("same", source=f'layer {{{{ name: "photos" type: "{kind}" top: "data" top: "label" }}}}')
    with pytest.raises(UserError, match=f'layer "photos": {kind} gives all 2 processes the same rows; put the rows'):
        train_in_threads("same", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("num_output: 3", "num_output: 4"),
            r"another net than rank 0 on \S+: num_output: 4, and rank 0 has num_output: 3",
        ),
        (
            ("TanH", "Sigmoid"),
            r'another net than rank 0 on \S+: type: "Sigmoid", and rank 0 has type: "TanH"',
        ),
        (
            ("base_lr: 0.1", "base_lr: 0.2"),
            r"another solver than rank 0 on \S+: base_lr: 0.2, and rank 0 has base_lr: 0.1",
        ),
    ],
)
def test_ranks_that_disagree_are_named(change, message, train_in_threads):
    write("first")
    write("second")
    for path in map(Path, ("second.prototxt", "second_net.prototxt")):
        path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match="rank 1 of 2 on .* has " + message):
        train_in_threads(["first", "second"], 2)


@pytest.mark.parametrize(("small", "names"), [(16384, {"small"}), (1, {"hidden", "scores"})])
def test_what_was_sent_is_said(small, names, train_in_threads, monkeypatch):
    """Of the layer "again" neither the shared nor the fixed parameters are sent."""
    monkeypatch.setattr(gradients, "SMALL", small)
    write("sent")
    log = train_in_threads("sent", 2, "--timing")
    assert any(re.match(r"Communication: \S+ MB and \S+ ms an iteration, \S+ % of the time", line) for line in log)
    start = [line.startswith("sent for") for line in log].index(True) + 1
    found = {line.split()[0] for line in log[start : start + 5]} - {"losses", "tests", "display", "Iteration"}
    assert found == names


def test_what_is_not_as_in_one_process_is_said_once(train_in_threads):
    norm = 'layer { name: "norm" type: "BatchNorm" bottom: "data" top: "normal" }'
    loss = 'type: "SoftmaxWithLoss" bottom: "data" bottom: "label"'
    norm += 'layer { name: "drop" type: "Dropout" bottom: "normal" top: "drop" }'
    losses = f'layer {{ name: "a" {loss} loss_param {{ ignore_label: 255 }} }}'
    losses += f'layer {{ name: "b" {loss} loss_param {{ ignore_label: 255 normalization: FULL }} }}'
    losses += f'layer {{ name: "c" {loss} loss_param {{ normalization: NONE }} }}'
    write("said", layers=norm + 'layer { name: "no" type: "Silence" bottom: "drop" }' + losses, iterations=1)
    log = train_in_threads("said", 2, "--local-normalizer")
    starts = [
        "2 processes on 1 host. To mpirun, SIGUSR1",
        "BatchNorm (norm) has the mean",
        "Caffe's own loss (a) divides",
    ]
    starts += ["Caffe's own loss (c), a sum", "--local-normalizer: each"]
    starts.insert(2, "What is drawn at random (drop) is another in each process")
    assert [line.startswith(start) for line, start in zip(log, starts)] == [True] * 6
    assert not any(line.startswith(start) for line in train_in_threads("said", 1) for start in starts)


@pytest.mark.parametrize("name", ["autoencoder", "channel_sum", "digits", "digits_weighted", "segmentation_dice"])
@pytest.mark.usefixtures("demo_data")
def test_the_demos_nets(name, folder, train_in_threads):
    """Ten iterations of each, by two ranks with half the batch."""
    Path("build").symlink_to(ROOT / "build")
    net = (ROOT / f"prototxt/demo/{name}.prototxt").read_text()
    batch = int(re.search(r"batch_size: (\d+)", net)[1])
    Path("one_net.prototxt").write_text(net)
    Path("many_net.prototxt").write_text(net.replace(f"batch_size: {batch} ", f"batch_size: {batch // 2} "))
    solver = (ROOT / f"prototxt/demo/{name}_solver.prototxt").read_text().replace("snapshot_after_train: false", "")
    for each in ("one", "many"):
        mine = solver.replace(f"prototxt/demo/{name}.", f"{each}_net.")
        mine = re.sub(r"max_iter: \d+", "max_iter: 10", mine)
        Path(f"{each}.prototxt").write_text(f'{mine}\nsnapshot_prefix: "{each}"')
    train_in_threads("one", 1)
    train_in_threads("many", 2)
    assert difference("many_iter_10.caffemodel", "one_iter_10.caffemodel") < 1e-6


def test_a_net_of_the_old_format(train_in_threads):
    """In one process it is trained, and goes on in the middle of its data; several are refused."""
    source = DATA.replace("layer {{", "layers {{").replace('type: "HDF5Data"', "type: HDF5_DATA")
    write("old", source=source, more="snapshot: 11")
    net = Path("old_net.prototxt")
    kinds = {"InnerProduct": "INNER_PRODUCT", "TanH": "TANH"}
    text = net.read_text().partition('layer { name: "loss"')[0]
    for new, old in kinds.items():
        text = text.replace(f'type: "{new}"', f"type: {old}")
    text = re.sub(r"param \{ name: \"w\" \}( param \{ lr_mult: \d \})?", "", text).replace("layer {", "layers {")
    net.write_text(text + 'layers { name: "loss" type: SOFTMAX_LOSS bottom: "scores" bottom: "label" top: "loss" }')
    train_in_threads("old", 1)
    whole = parameters("old_iter_20.caffemodel")
    train_in_threads("old", 1, "--snapshot", "old_iter_11.solverstate")
    np.testing.assert_equal(parameters("old_iter_20.caffemodel"), whole)
    with pytest.raises(UserError, match='net "small" is of the old format, with "layers"; upgrade_net_proto_text'):
        train_in_threads("old", 2)


def test_layers_that_shuffle_by_one_rand(train_in_threads):
    again = DATA.replace('name: "data"', 'name: "more"').replace(
        'top: "data" top: "label"', 'top: "data2" top: "label2"'
    )
    no = "".join(f'layer {{{{ name: "{name}" type: "Silence" bottom: "{name}" }}}}' for name in ("data2", "label2"))
    write("two", source=DATA + again + no, data="shuffle: true", iterations=2)
    with pytest.raises(UserError, match=r"layers \['data', 'more'\] of one net shuffle with one rand"):
        train_in_threads("two", 2)


def test_rows_are_compared_before_a_layer_changes_them_in_place(folder, train_in_threads, monkeypatch):
    Path("rows.py").write_text(ROWS)
    monkeypatch.syspath_prepend(folder)
    noise = 'layer {{ name: "drop" type: "Dropout" bottom: "data" top: "data" }}'
    write("same", source=PYTHON + noise, data='layer: "Rows"', iterations=2)
    with pytest.raises(UserError, match="the same first batch"):
        train_in_threads("same", 2)


def test_tests_of_a_net_that_remembers_are_not_shared():
    def shares(kind):
        layers = [SimpleNamespace(type="HDF5Data"), SimpleNamespace(type=kind)]
        net = SimpleNamespace(layers=layers, _bottom_ids=lambda index: [0] * index, _top_ids=lambda index: [])
        net._blob_loss_weights, net._blobs = [], []
        return SharedTest(net, 4, SimpleNamespace(count=2, number=0)).shares

    assert (shares("InnerProduct"), shares("LSTM"), shares("RNN"), shares("Python")) == (2, 1, 1, 1)


@pytest.mark.parametrize(
    ("layer", "is_noted"),
    [("L1LossLayer", True), ("HuberLossLayer", True), ("MarginLossLayer", True), ("WeightedSoftmaxLossLayer", False)],
)
def test_a_loss_of_ones_own_with_a_divisor_of_its_own_is_noted(layer, is_noted):
    kind = getattr(pylayers if layer.startswith("Weighted") else user_losses, layer)
    assert divides_itself(kind.__new__(kind)) == is_noted


def test_a_python_layer_that_is_no_losslayer_is_noted_too(folder, train_in_threads, monkeypatch):
    Path("plain.py").write_text(
        "import caffe\n"
        "class Plain(caffe.Layer):\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape()\n"
        "    def forward(self, bottom, top): top[0].data[...] = 1\n"
        "    def backward(self, top, down, bottom): bottom[0].diff[...] = 0\n"
    )
    monkeypatch.syspath_prepend(folder)
    write("plain", module="plain", layer="Plain", iterations=1)
    assert train_in_threads("plain", 2)[1].startswith("The loss of a Python layer (loss) is averaged")
