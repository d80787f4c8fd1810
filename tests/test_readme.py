"""What the README shows runs."""

import re

import numpy as np
from closeness import assert_close_loss
from conftest import ROOT
from nets import load, python_layer, run

README = (ROOT / "README.md").read_text()
OWN_LOSS = (ROOT / "prototxt/own_loss/README.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_smallest_prototxt():
    (text,) = blocks("prototxt")
    net = load(text)
    net.blobs["pred"].data[...] = 3
    net.blobs["target"].data[...] = 1
    assert net.forward()["loss"] == 2**2 / 2 * 10


def test_the_first_lines_of_python_print_what_they_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(*blocks("prototxt"))
    text = blocks("python")[0]
    exec(text, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*  # (.*)", text)


def test_the_loss_that_it_shows_is_the_files():
    assert blocks("python")[1:] == [(ROOT / "prototxt/own_loss/focal_loss.py").read_text()]


def test_loss_with_memory_of_your_own(tmp_path, monkeypatch):
    loss, test = blocks("python", OWN_LOSS)
    (tmp_path / "my_losses.py").write_text(loss)
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {}
    exec(test, namespace)
    namespace["test_gradient"]()
    random = np.random.default_rng(0)
    bottoms = {name: random.normal(size=(4, 3)) for name in ("pred", "target")}
    found = run(python_layer("LogCoshLossLayer", bottoms, module="my_losses"), bottoms)
    assert_close_loss(found.loss, np.log(np.cosh(bottoms["pred"] - bottoms["target"])).sum() / 4)


def test_every_file_that_it_names_exists():
    for path in re.findall(r"`((?:docker|pylayers|prototxt|tests)/[\w./-]*)`", README + OWN_LOSS):
        if "<" not in path:
            assert (ROOT / path).exists(), path


def test_the_layers_of_its_table_are_those_of_the_package():
    import pylayers

    assert sorted(set(re.findall(r"^\| `(\w+Layer)` \|", README, re.MULTILINE))) == sorted(pylayers.__all__)
