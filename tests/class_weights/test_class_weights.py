"""class_weights: the weights against a direct computation, every kind of source, and what is no label."""

import io
import json
import os
import pty
import subprocess
import sys
import warnings

import caffe
import h5py
import numpy as np
import pytest
from caffe import layers as L  # noqa: N812
from caffe.proto import caffe_pb2
from harness import ROOT
from harness.nets import load
from PIL import Image

import pylayers
from pylayers.class_weights import count, median_frequency
from pylayers.class_weights import sources as label_sources
from pylayers.layers import python_loss
from pylayers.tools import cli
from pylayers.tools.report import UserError

IGNORE = 255
CLASSES = 5

# Class 0 is seen in both images (5 of 8 pixels), class 1 in the second (1 of 4), class 2 in the first (2 of 4).
HAND = np.array([[[0, 0], [2, 2]], [[0, 0], [0, 1]]])
HAND_WEIGHTS = [0.8, 2, 1]


def direct(images, classes, ignore=None):
    """Weights straight from the definition, pixel by pixel."""
    kept = [[int(pixel) for pixel in np.ravel(image) if pixel != ignore] for image in images]
    if all(np.size(image) == 1 for image in images):
        kept = [[pixel for image in kept for pixel in image]]
    frequency = {}
    for c in range(classes):
        shown = [image for image in kept if c in image]
        if shown:
            frequency[c] = sum(image.count(c) for image in shown) / sum(len(image) for image in shown)
    ordered = sorted(frequency.values())
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return [median / frequency[c] if c in frequency else 0 for c in range(classes)]


def label_maps(count=7, size=(6, 9), classes=CLASSES):
    """Maps in each of which some classes are missing, and some pixels ignored."""
    random = np.random.default_rng(3)
    maps = np.stack([random.choice(random.permutation(classes)[:3], size, p=[0.6, 0.3, 0.1]) for _ in range(count)])
    maps[random.random(maps.shape) < 0.2] = IGNORE
    return maps


MAPS = label_maps()
LABELS = np.random.default_rng(4).choice(CLASSES, 2500, p=[0.5, 0.3, 0.1, 0.06, 0.04])


@pytest.fixture
def lmdb():
    return pytest.importorskip("lmdb", reason="lmdb is not installed; make setup brings it")


@pytest.fixture
def write_lmdb(lmdb, tmp_path):
    def write(datums, name="labels_lmdb"):
        path = str(tmp_path / name)
        with lmdb.open(path, map_size=2**24) as environment, environment.begin(write=True) as transaction:
            for index, datum in enumerate(datums):
                value = datum if isinstance(datum, bytes) else datum.SerializeToString()
                transaction.put(f"{index:08}".encode(), value)
        return path

    return write


def map_datum(labels, floats=False, **fields):
    datum = caffe_pb2.Datum(channels=1, height=labels.shape[0], width=labels.shape[1], **fields)
    if floats:
        datum.float_data.extend(labels.ravel().tolist())
    else:
        datum.data = labels.astype(np.uint8).tobytes()
    return datum


def encoded_datum(array, kind="PNG", mode=None):
    file = io.BytesIO()
    image = Image.fromarray(array.astype(np.uint8))
    (image.convert(mode) if mode else image).save(file, kind)
    return caffe_pb2.Datum(encoded=True, data=file.getvalue())


def environment():
    """For a process that finds the same packages, and takes a terminal for an xterm, on which a bar can move."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TERM": "xterm"}


# ---- The weights


def test_a_hand_computed_example():
    assert median_frequency(HAND, 3) == pytest.approx(HAND_WEIGHTS, rel=1e-15)
    counts = count(HAND, 3)
    assert (counts.pixels.tolist(), counts.images.tolist(), counts.area.tolist()) == ([5, 1, 2], [2, 1, 1], [8, 4, 4])


def test_ignored_pixels_count_nowhere():
    # The first image becomes one pixel of each of 0 and 2: freq = 4/6, 1/4, 1/2.
    labels = HAND.copy()
    labels[0, 0, 0] = labels[0, 1, 0] = IGNORE
    assert median_frequency(labels, 3, IGNORE) == pytest.approx([0.75, 2, 1], rel=1e-15)


def test_one_label_an_item_is_one_image():
    # freq = 4/8, 3/8, 1/8; in images of one pixel all would be 1.
    labels = [0, 0, 0, 0, 1, 1, 1, 2]
    for shape in ((8,), (8, 1), (8, 1, 1, 1)):
        assert median_frequency(np.reshape(labels, shape), 3) == pytest.approx([0.75, 1, 3], rel=1e-15)
    assert median_frequency(labels, 3) == pytest.approx([0.75, 1, 3], rel=1e-15)


def test_the_median_of_an_even_number_of_classes_lies_between_two():
    assert median_frequency([0, 0, 0, 1], 2) == pytest.approx([2 / 3, 2], rel=1e-15)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float32, np.float64])
def test_label_maps_of_any_type(dtype):
    assert median_frequency(MAPS.astype(dtype), CLASSES, IGNORE) == pytest.approx(
        direct(MAPS, CLASSES, IGNORE), rel=1e-14
    )


def test_a_channel_axis_changes_nothing():
    expected = median_frequency(MAPS, CLASSES, IGNORE)
    assert median_frequency(MAPS[:, np.newaxis], CLASSES, IGNORE).tolist() == expected.tolist()


def test_images_of_several_sizes():
    images = [MAPS[0], MAPS[1, :2], MAPS[2, :, :3], MAPS[3, :1, :1]]
    assert median_frequency(iter(images), CLASSES, IGNORE) == pytest.approx(direct(images, CLASSES, IGNORE), rel=1e-14)


def test_batches_change_nothing(monkeypatch):
    expected = median_frequency(MAPS, CLASSES, IGNORE), median_frequency(LABELS, CLASSES)
    monkeypatch.setattr(label_sources, "BATCH", 100)
    found = median_frequency(MAPS, CLASSES, IGNORE), median_frequency(LABELS, CLASSES)
    assert [weights.tolist() for weights in found] == [weights.tolist() for weights in expected]


def test_a_class_that_never_occurs_gets_0_and_one_warning():
    with pytest.warns(UserWarning, match=r"^classes 1, 3 never occur; their weights are 0$") as caught:
        weights = median_frequency(2 * HAND, 5)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert weights[[1, 3]].tolist() == [0, 0]


def test_the_ignored_class_is_not_missed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert median_frequency(HAND, 3, ignore_label=2) == pytest.approx(direct(HAND, 3, 2), rel=1e-15)


# ---- What is no label


@pytest.mark.parametrize(
    ("value", "shown"), [(3, "3"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf"), (254, "254")]
)
def test_rejects_a_label(value, shown):
    labels = HAND.astype(np.float32 if isinstance(value, float) else int)
    labels[1, 0, 1] = value
    labels[1, 1, 1] = 7  # the first is named
    message = r"^the array holds {}(\.0)? at \(1, 0, 1\); a label must be a whole number from 0 to 2, or 255 \(ignore_"
    with pytest.raises(ValueError, match=message.format(shown)):
        median_frequency(labels, 3, IGNORE)


def test_rejects_255_where_it_is_not_ignored():
    with pytest.raises(
        ValueError, match=r"^the array holds 255 at \(.*; a label must be a whole number from 0 to 4; if "
    ):
        median_frequency(MAPS, CLASSES)


@pytest.mark.parametrize(
    ("value", "hint"), [(255, "255"), (255.0, "255"), (-1, "-1"), (254, None), (255.5, None), (np.nan, None)]
)
def test_a_label_that_usually_marks_what_does_not_count_is_asked_for(value, hint):
    with pytest.raises(ValueError, match="the array holds") as raised:
        median_frequency(np.array([0, 1, value]), 3)
    expected = f"; if {hint} marks what does not count: --ignore-label {hint} (in Python: ignore_label={hint})"
    assert str(raised.value).endswith(expected if hint else "a label must be a whole number from 0 to 2")
    with pytest.raises(ValueError, match=r"or 9 \(ignore_label\)$"):  # one label alone can be ignored
        median_frequency(np.array([0, 1, value]), 3, 9)


def test_the_place_of_a_wrong_label_is_its_place_in_the_whole(monkeypatch):
    monkeypatch.setattr(label_sources, "BATCH", 100)
    with pytest.raises(ValueError, match=r"holds 9 at \(2000,\)"):
        median_frequency(np.where(np.arange(2500) == 2000, 9, LABELS), CLASSES)
    with pytest.raises(ValueError, match=r"holds 9 at \(1, 0, 2\)"):
        median_frequency([[[0]], [[1, 1, 9]]], 2)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (HAND[0], ValueError, r"of shape \(2, 2\) may be one label map or many rows; give one map as \(1, 2, 2\)"),
        (np.array(3), ValueError, "holds a single number"),
        (np.array([1 + 1j]), TypeError, "the array holds complex128, and no labels"),
        (["0", "1"], TypeError, "the array holds <U1, and no labels"),
        ([], ValueError, "the array holds no labels but 255, ignored"),
        (np.full((2, 3, 3), IGNORE), ValueError, "the array holds no labels but 255, ignored"),
    ],
)
def test_rejects_arrays(labels, error, message):
    with pytest.raises(error, match=message):
        median_frequency(labels, 3, IGNORE)


@pytest.mark.parametrize(
    ("classes", "ignore", "error"), [(0, None, ValueError), (2.5, None, TypeError), (3, 0.5, TypeError)]
)
def test_rejects_classes(classes, ignore, error):
    with pytest.raises(error):
        median_frequency(HAND, classes, ignore)


# ---- Sources


def test_npy(tmp_path):
    np.save(tmp_path / "labels.npy", MAPS.astype(np.uint8))
    assert median_frequency(tmp_path / "labels.npy", CLASSES, IGNORE) == pytest.approx(direct(MAPS, CLASSES, IGNORE))


@pytest.mark.parametrize("chunks", [None, (3, 6, 9), (1, 2, 9)])
def test_hdf5(chunks, tmp_path, monkeypatch):
    monkeypatch.setattr(label_sources, "BATCH", 100)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file.create_dataset("group/label", data=MAPS.astype(np.float32), chunks=chunks)
        assert median_frequency(file["group/label"], CLASSES, IGNORE) == pytest.approx(direct(MAPS, CLASSES, IGNORE))
    found = median_frequency(f"{tmp_path}/labels.h5:group/label", CLASSES, IGNORE)
    assert found == pytest.approx(direct(MAPS, CLASSES, IGNORE), rel=1e-14)


def test_hdf5_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(label_sources, "BATCH", 100)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file.create_dataset("label", data=MAPS, chunks=(2, 6, 9))
    source = label_sources.open_source(f"{tmp_path}/labels.h5:label")
    assert source.items == 7
    assert [(len(batch.labels), batch.first) for batch in source.batches] == [(2, 0), (2, 2), (2, 4), (1, 6)]


def test_the_list_of_an_hdf5_data_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the names in the list are relative to where the net is loaded, as for Caffe
    for name, part in (("a.h5", LABELS[:1000]), ("b.h5", LABELS[1000:])):
        with h5py.File(name, "w") as file:
            file["label"] = part.astype(np.float32)
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    assert median_frequency("list.txt:label", CLASSES) == pytest.approx(direct(LABELS, CLASSES), rel=1e-14)
    with h5py.File("b.h5", "w") as file:
        file["label"] = np.array([0, 0, 9], np.float32)
    with pytest.raises(ValueError, match=r"^b\.h5:label holds 9\.0 at \(2,\); a label must be"):
        median_frequency("list.txt:label", CLASSES)


def test_the_labels_of_an_lmdb(write_lmdb):
    pixels = np.full((2, 3), 200)  # an image's bytes, which are no labels
    path = write_lmdb([map_datum(pixels, label=int(label)) for label in LABELS])
    assert median_frequency(f"{path}:label", CLASSES) == pytest.approx(direct(LABELS, CLASSES), rel=1e-14)
    assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb"]


@pytest.mark.parametrize("make", [map_datum, lambda labels: map_datum(labels, floats=True), encoded_datum])
def test_the_label_maps_of_an_lmdb(make, write_lmdb):
    images = [MAPS[0], MAPS[1, :2], *MAPS[2:]]
    path = write_lmdb([make(image) for image in images])
    assert median_frequency(f"{path}:data", CLASSES, IGNORE) == pytest.approx(
        direct(images, CLASSES, IGNORE), rel=1e-14
    )


DATA_LAYER = """
import sys, caffe, numpy
net = caffe.Net(sys.argv[1], caffe.TEST)
net.forward()
numpy.savez(sys.argv[2], **{top: net.blobs[top].data for top in ("data", "label")})
"""


def test_caffes_data_layer_reads_the_same_lmdb(write_lmdb, tmp_path):
    """These LMDBs are what Caffe takes: its Data layer's tops hold the labels that are counted here."""
    path = write_lmdb([map_datum(image, label=index % 3) for index, image in enumerate(MAPS)])
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" '
        f'data_param {{ source: "{path}" backend: LMDB batch_size: {len(MAPS)} }} }}'
    )
    # Another process, since a Caffe without LMDB ends its own.
    command = [sys.executable, "-c", DATA_LAYER, tmp_path / "net.prototxt", tmp_path / "tops.npz"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if "Unknown database backend" in done.stderr:
        pytest.skip("this Caffe was built without LMDB")
    if "CUDA driver version is insufficient" in done.stderr:
        pytest.skip("a Caffe for CUDA starts no data layer where there is no GPU")
    assert done.returncode == 0, done.stderr
    tops = np.load(tmp_path / "tops.npz")
    assert tops["data"].tolist() == MAPS[:, np.newaxis].tolist()
    for top, classes, ignore in (("data", CLASSES, IGNORE), ("label", 3, None)):
        expected = median_frequency(tops[top], classes, ignore)
        assert median_frequency(f"{path}:{top}", classes, ignore).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("datum", "part", "message"),
    [
        (caffe_pb2.Datum(channels=3, height=1, width=1, data=b"abc"), "data", "has 3 channels, which a label map has"),
        (
            caffe_pb2.Datum(channels=1, height=2, width=2, data=b"abc"),
            "data",
            "has 3 values and says that it has 1×2×2",
        ),
        (caffe_pb2.Datum(channels=3), "label", "has no label"),
        (b"\xff\xff", "label", "is no Datum"),
        (encoded_datum(MAPS[0], mode="RGB"), "data", "holds PNG of mode RGB; of encoded label maps only grey PNG"),
        (encoded_datum(MAPS[0], mode="P"), "data", "holds PNG of mode P"),
        (encoded_datum(MAPS[0], "JPEG"), "data", "holds JPEG of mode L"),
        (caffe_pb2.Datum(encoded=True, data=b"no image"), "data", "holds something encoded"),
        (caffe_pb2.Datum(encoded=True, data=encoded_datum(MAPS[0]).data[:60]), "data", "holds something encoded"),
    ],
)
def test_rejects_a_datum(datum, part, message, write_lmdb):
    path = write_lmdb([map_datum(MAPS[0], label=1), datum])
    with pytest.raises(UserError, match=message) as caught:
        median_frequency(f"{path}:{part}", CLASSES, IGNORE)
    assert str(caught.value).startswith(f"{path}:{part}: item 1, key '00000001', ")


def test_a_wrong_label_in_an_lmdb_is_placed(write_lmdb):
    path = write_lmdb([map_datum(MAPS[0], label=1), map_datum(np.array([[0, 77]]), label=-3)])
    with pytest.raises(ValueError, match=r"_lmdb:data holds 77 at \(1, 0, 0, 1\); a label must be"):
        median_frequency(f"{path}:data", CLASSES, IGNORE)
    with pytest.raises(ValueError, match=r"_lmdb:label holds -3 at \(1,\); a label must be"):
        median_frequency(f"{path}:label", CLASSES, IGNORE)


@pytest.mark.parametrize("place", [999, 1000, 2100])
def test_the_place_of_a_wrong_label_in_an_lmdb_is_its_place_in_the_whole(place, write_lmdb):
    path = write_lmdb(caffe_pb2.Datum(label=9 if index == place else 1) for index in range(2200))
    with pytest.raises(ValueError, match=rf"_lmdb:label holds 9 at \({place},\)"):
        median_frequency(f"{path}:label", CLASSES)


def test_an_lmdb_that_is_cut_off(write_lmdb):
    path = write_lmdb([map_datum(MAPS[0]) for _ in range(500)])
    os.truncate(f"{path}/data.mdb", 2**14)
    with pytest.raises(UserError, match=r"labels_lmdb: data\.mdb is cut off"):
        median_frequency(f"{path}:data", CLASSES, IGNORE)


# ---- With the loss, and from the command line


def test_a_net_with_these_weights():
    weights = median_frequency(MAPS, CLASSES, IGNORE)
    net = caffe.NetSpec()
    net.scores = L.Input(shape={"dim": [7, CLASSES, 6, 9]})
    net.label = L.Input(shape={"dim": list(MAPS.shape)})
    net.loss = python_loss(
        pylayers.WeightedSoftmaxLossLayer,
        net.scores,
        net.label,
        ignore_label=IGNORE,
        class_weights=weights.tolist(),
    )
    loaded = load(str(net.to_proto()))
    loaded.blobs["label"].data[...] = MAPS
    kept = MAPS[MAPS != IGNORE]
    # Scores of 0 give each class the same probability.
    expected = np.log(CLASSES) * np.mean(np.array(direct(MAPS, CLASSES, IGNORE))[kept])
    assert loaded.forward()["loss"] == pytest.approx(expected, rel=1e-6)


def command(*arguments):
    return cli.main(["class-weights", *map(str, arguments)])


def test_command(tmp_path, capsys):
    labels = np.concatenate([HAND, HAND])
    labels[2:][labels[2:] == 1] = IGNORE
    np.save(tmp_path / "labels.npy", labels)
    source = tmp_path / "labels.npy"
    assert command(source, "--classes", 4, "--ignore-label", IGNORE, "--json", tmp_path / "weights.json") == 0
    printed = capsys.readouterr()
    assert printed.err == "pylayers class-weights: class 3 never occurs; its weight is 0\n"
    # freq = 10/15, 1/4, 4/8, none.
    *_, last = printed.out.splitlines()
    assert last == (
        """param_str: '{"class_weights": [0.75, 2.0, 1.0, 0.0], "normalization": "WEIGHT_SUM", "ignore_label": 255}'"""
    )
    rows = [line.split() for line in printed.out.splitlines()]
    for row in (["class", "pixels", "images", "weight"], ["0", "10", "4", "0.75"], ["1", "1", "1", "2"]):
        assert row in rows
    result = json.loads((tmp_path / "weights.json").read_text())
    assert result["class_weights"] == pytest.approx([0.75, 2, 1, 0], rel=1e-15)
    assert result["frequencies"] == [pytest.approx(10 / 15), 0.25, 0.5, None]
    assert result["pixels"] == [10, 1, 4, 0]
    assert result["mean_weight"] == pytest.approx((10 * 0.75 + 2 + 4) / 15)
    assert '"VALID", the default, would make the loss and its gradient\n0.9 times as large, as base_lr × 0.9' in (
        printed.out
    )
    assert result["images"] == [4, 1, 2, 0]


def test_command_with_one_label_an_item(tmp_path, capsys):
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file["label"] = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2], np.float32)
    assert command(f"{tmp_path}/labels.h5:label", "--classes", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == """param_str: '{"class_weights": [0.333333, 1.0, 2.0], "normalization": "WEIGHT_SUM"}'"""
    assert ["class", "labels", "weight"] in [line.split() for line in lines]


def test_the_mean_weight_is_what_valid_does_to_the_loss(tmp_path, capsys):
    """The layer's loss by VALID is the mean weight times that by WEIGHT_SUM."""
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    np.save(tmp_path / "labels.npy", labels)
    assert command(tmp_path / "labels.npy", "--classes", 3) == 0
    printed = capsys.readouterr().out
    options = json.loads(printed.splitlines()[-1].removeprefix("param_str: '").removesuffix("'"))
    loss = {}
    for normalization in ("VALID", options["normalization"]):
        net = caffe.NetSpec()
        net.scores, net.label = L.Input(shape={"dim": [100, 3]}), L.Input(shape={"dim": [100]})
        options["normalization"] = normalization
        net.loss = python_loss(pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, **options)
        loaded = load(str(net.to_proto()))
        loaded.blobs["label"].data[...] = labels
        loss[normalization] = float(loaded.forward()["loss"])
    assert loss["VALID"] / loss["WEIGHT_SUM"] == pytest.approx(0.24, rel=1e-3)
    assert "The mean weight of these labels is 0.24. " in printed


def test_balanced_classes_need_no_other_learning_rate(tmp_path, capsys):
    np.save(tmp_path / "labels.npy", np.arange(30) % 3)
    assert command(tmp_path / "labels.npy", "--classes", 3) == 0
    assert '"VALID", the default, would do as "WEIGHT_SUM" does' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.npy", "cannot read missing.npy: there is no such file or folder"),
        ("missing.h5:label", "cannot read missing.h5: there is no such file or folder"),
        ("labels.npy:label", "labels.npy holds one array; give it without :label"),
        ("map.npy", "map.npy of shape (6, 9) may be one label map or many rows"),
        ("noise.npy", "cannot read noise.npy: "),
        ("noise.h5:label", "cannot read noise.h5: it is no HDF5 file"),
        (
            "labels.h5:labels",
            'labels.h5 has no data set "labels"; name one, as in labels.h5:label; it has "label", "number"',
        ),
        ("labels.h5", "labels.h5 may hold several data sets; name one, as in labels.h5:label"),
        ("labels.h5:group", 'labels.h5 has no data set "group"'),
        ("labels.h5:number", 'the data set "number" of labels.h5 has no axis that counts images'),
        ("labels.h5:label", "labels.h5:label holds 9.0 at (2,); a label must be a whole number from 0 to 4"),
        ("list.txt:label", "cannot read gone.h5, which list.txt lists: there is no such file\n"),
        ("folders.txt:label", "cannot read empty_folder, which folders.txt lists: it is a folder\n"),
        ("noises.txt:label", "cannot read noise.h5, which noises.txt lists: it is no HDF5 file\n"),
        ("empty.txt:label", "empty.txt lists no HDF5 file"),
        ("empty_folder:label", "empty_folder is no LMDB, which has a file data.mdb"),
        ("some_leveldb:label", "some_leveldb is no LMDB, which has a file data.mdb; LevelDB is not read here"),
        ("noise_lmdb", "say where noise_lmdb has its labels: noise_lmdb:label for the label of each Datum"),
        ("noise_lmdb:labels", "say where noise_lmdb has its labels"),
    ],
)
def test_command_refuses_in_one_line(source, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", MAPS)
    np.save("map.npy", MAPS[0])
    for name in ("noise.npy", "noise.h5"):
        (tmp_path / name).write_bytes(b"noise")
    with h5py.File("labels.h5", "w") as file:
        file["label"] = np.array([1, 2, 9.0])
        file["number"] = 3
        file["group/label"] = [1]
    (tmp_path / "list.txt").write_text("gone.h5\n")
    (tmp_path / "folders.txt").write_text("empty_folder\n")
    (tmp_path / "noises.txt").write_text("labels.h5 noise.h5\n")
    (tmp_path / "empty.txt").write_text("\n")
    for name, file in (("empty_folder", None), ("some_leveldb", "CURRENT"), ("noise_lmdb", "data.mdb")):
        (tmp_path / name).mkdir()
        if file:
            (tmp_path / name / file).write_bytes(b"noise" * 2000)
    before = sorted(tmp_path.rglob("*"))
    assert command(source, "--classes", CLASSES, "--json", "out.json") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines(keepends=True)
    assert line.startswith("pylayers class-weights: ")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


def test_command_refuses_a_file_that_is_no_lmdb(lmdb, tmp_path, capsys):
    (tmp_path / "data.mdb").write_bytes(b"noise" * 2000)
    assert command(f"{tmp_path}:label", "--classes", CLASSES) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot read {tmp_path}: " in line
    assert "MDB_INVALID" in line


@pytest.mark.parametrize(("missing", "extra"), [("h5py", "demo"), ("lmdb", "lmdb")])
def test_command_names_a_missing_package(missing, extra, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.mdb").touch()
    (tmp_path / "labels.h5").touch()
    assert command(".:label" if missing == "lmdb" else "labels.h5:label", "--classes", 3) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{missing} is not installed; pip install '.[{extra}]' in the clone of pylayers brings it" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels.npy"], "the following arguments are required: --classes"),
        (["labels.npy", "--classes", "0"], "argument --classes: must be at least 1, found 0"),
        (["labels.npy", "--classes", "99999999"], "argument --classes: must be at most 16777216, found '99999999'"),
        (["labels.npy", "--classes", "3", "--ignore-label", "x"], "argument --ignore-label: must be a whole number"),
    ],
)
def test_command_refuses_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(*arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_negative_label_can_be_ignored(tmp_path, capsys):
    np.save(tmp_path / "labels.npy", np.where(MAPS == IGNORE, -1, MAPS))
    assert command(tmp_path / "labels.npy", "--classes", CLASSES, "--ignore-label", -1) == 0
    assert '"ignore_label": -1}' in capsys.readouterr().out


def test_the_weights_need_no_rich(tmp_path, monkeypatch):
    np.save(tmp_path / "labels.npy", HAND)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert median_frequency(tmp_path / "labels.npy", 3) == pytest.approx(HAND_WEIGHTS)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_bar_on_a_terminal_alone(terminal, tmp_path):
    np.save(tmp_path / "labels.npy", HAND)
    arguments = [sys.executable, "-m", "pylayers", "class-weights", tmp_path / "labels.npy", "--classes", "3"]
    if terminal:
        master, stderr = pty.openpty()
    else:
        master, stderr = os.pipe()
    done = subprocess.run(arguments, env=environment(), stdout=subprocess.PIPE, stderr=stderr, text=True)
    if not terminal:
        os.close(stderr)
    os.set_blocking(master, False)
    try:
        shown = os.read(master, 2**16)
    except BlockingIOError:
        shown = b""
    assert done.returncode == 0
    assert "param_str: " in done.stdout
    assert (b"counting" in shown) is terminal
    assert terminal or shown == b""
