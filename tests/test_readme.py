"""What the README shows runs."""

import re

import numpy as np
from closeness import assert_same_results
from conftest import ROOT
from nets import load, python_layer, run

README = (ROOT / "README.md").read_text()


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return text


def test_smallest_prototxt():
    net = load(block("prototxt"))
    net.blobs["pred"].data[...] = 3
    net.blobs["target"].data[...] = 1
    assert net.forward()["loss"] == 2**2 / 2 * 10


def test_loss_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    random = np.random.default_rng(0)
    bottoms = {name: random.normal(size=(4, 3)).astype(np.float32) for name in ("pred", "target")}
    found, expected = (
        run(python_layer("L1LossLayer", bottoms, module=module, loss_weight=0.3), bottoms)
        for module in ("my_losses", "user_losses")
    )
    assert_same_results(found, expected)


def test_every_file_that_it_names_exists():
    for path in re.findall(r"`((?:docker|pylayers|prototxt|tests)/[\w./-]*)`", README):
        if "<" not in path:
            assert (ROOT / path).exists(), path


def test_the_layers_of_its_table_are_those_of_the_package():
    import pylayers

    assert sorted(set(re.findall(r"^\| `(\w+Layer)` \|", README, re.MULTILINE))) == sorted(pylayers.__all__)
