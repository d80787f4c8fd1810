"""The demo's exit status, tables and pictures, on a few iterations of real training, and its segmentation data."""

import shutil

import demo_data
import numpy as np
import pytest
import report
import scores
import segmentation_data
import train
from harness import ROOT
from harness.full_disk import file_size_limit

from pylayers.class_weights import median_frequency


@pytest.fixture
def few_iterations(tmp_path, monkeypatch):
    """The demo in a folder of its own, so that a finished `make demo` keeps its picture."""
    shutil.copytree(ROOT / "prototxt", tmp_path / "prototxt")
    monkeypatch.chdir(tmp_path)
    return ["--iterations", "5"]


def test_pairs_that_agree_end_with_status_0(few_iterations, capsys):
    assert train.main(few_iterations) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in train.EXPERIMENTS.values())
    assert all(name in printed for name in ("diamond", "recall", "IoU", "no weights"))
    for picture in ("curves.png", "segmentation.png"):
        assert (train.OUTPUT / picture).stat().st_size > 10000


def test_a_pair_that_differs_ends_with_status_1(few_iterations, capsys):
    net = train.NETS / "autoencoder.prototxt"
    net.write_text(net.read_text().replace("loss_weight: 1", "loss_weight: 1.1"))
    assert train.main(few_iterations) == 1
    assert "the loss curves of a pair differ by" in capsys.readouterr().err


def test_elsewhere_it_says_where_to_run_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train.main([])
    assert "run it from the root of the clone" in capsys.readouterr().err


def test_nan_is_a_difference():
    good, bad = (train.Run(np.array([1.0, loss]), step=0) for loss in (1, np.nan))
    assert report.worst_difference({"a": (good, good), "b": (good, good)}) == 0
    assert np.isnan(report.worst_difference({"a": (good, good), "b": (good, bad)}))


@pytest.mark.usefixtures("demo_data")
def test_the_segmentation_nets_weights_are_those_of_its_labels():
    source = ROOT / "build/demo/segmentation_train.h5:label"
    found = median_frequency(source, len(segmentation_data.CLASSES), segmentation_data.IGNORE)
    assert demo_data.class_weights(train.NETS / "segmentation.prototxt") == pytest.approx(found, rel=1e-5)


def test_label_maps_have_a_rare_class_and_borders_that_do_not_count():
    image, label = segmentation_data.draw(np.random.default_rng(1), 40)
    assert image.shape == (40, 3, 32, 32)
    assert label.shape == (40, 1, 32, 32)
    assert np.abs(image).max() <= 0.55  # a shape's own colour varies a little
    values, count = np.unique(label, return_counts=True)
    assert values.tolist() == [0, 1, 2, 255]
    assert 0 < count[2] < 0.02 * label.size


def test_scores_of_a_confusion_matrix():
    matrix = scores.confusion(label=[[0, 0, 0], [1, 1, 255]], found=[[0, 0, 1], [1, 0, 2]], classes=3)
    assert matrix.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.accuracy(matrix) == 3 / 5
    assert scores.recall(matrix[:2, :2]).tolist() == pytest.approx([2 / 3, 1 / 2])
    assert scores.iou(matrix[:2, :2]).tolist() == pytest.approx([2 / 4, 1 / 3])


def test_the_net_without_class_weights_keeps_its_other_options(tmp_path):
    path = train.without_class_weights(train.NETS / "segmentation.prototxt", tmp_path)
    text = path.read_text()
    assert "ignore_label" in text
    assert "class_weights" not in text


def test_a_full_disk_ends_in_one_line(few_iterations, capsys):
    with file_size_limit(10000):
        assert train.main(few_iterations) == 2
    assert capsys.readouterr().err == "cannot write build/demo/digits_train.h5: File too large\n"
    assert list(train.OUTPUT.iterdir()) == []


def test_a_folder_that_cannot_be_written_ends_in_one_line(few_iterations, capsys):
    (train.OUTPUT.parent).touch()
    assert train.main(few_iterations) == 2
    assert capsys.readouterr().err == "build/demo: Not a directory\n"
