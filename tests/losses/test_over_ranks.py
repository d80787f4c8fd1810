"""A batch that several processes share: the mean of their losses and gradients is that of the whole batch."""

import importlib
import json

import caffe
import numpy as np
import pytest
from harness.losses import LOSSES
from harness.nets import fill, load, net_text, python_layer, run_again
from harness.thread_ranks import ThreadRanks

from pylayers.runtime import reduction

pytestmark = [
    pytest.mark.engines("numba", "formula", "host"),
    pytest.mark.filterwarnings("ignore:L1LossLayer has no GPU code"),  # the users' loss
]
RANKS, ITEMS = 3, 2


@pytest.fixture
def ranks(monkeypatch):
    found = ThreadRanks(RANKS)
    monkeypatch.setattr(reduction, "ranks", found)
    return found


def cases():
    """Each loss with each normalization that it has; labels of the first rank are ignored where that can be said.

    Of a LossLayer whose Z is its own the mean is right where all ranks have the same Z.
    """
    for name, loss in LOSSES.items():
        layer = getattr(importlib.import_module(loss.module), loss.name)
        given = json.loads(loss.options or "{}")
        if "ignore_label" in layer.OPTIONS:
            given["ignore_label"] = 1
        kind = layer.OPTIONS.get("normalization")
        for normalization in kind.words if kind else [None]:
            options = given if kind is None else {**given, "normalization": normalization}
            if (name, normalization) == ("a user's", "NONE"):
                continue
            try:
                layer.read_options(json.dumps(options))
            except ValueError:
                continue
            yield pytest.param(loss, options, id=f"{name}, {normalization}")


def run(loss, options, bottoms, phase=caffe.TRAIN):
    """Forward and backward of a net with the loss in that phase, whose loss weight is 0.5."""
    layer = python_layer(loss.name, list(bottoms), json.dumps(options), module=loss.module, loss_weight=0.5)
    net = load(net_text(layer, bottoms), phase)
    fill(net, bottoms)
    return run_again(net, bottoms)


def batch(loss, options):
    bottoms = loss.bottoms(RANKS * ITEMS)
    if "weight" in bottoms:
        bottoms["weight"] = np.abs(bottoms["weight"])
    if "ignore_label" in options:
        bottoms["label"][:ITEMS] = options["ignore_label"]
    return bottoms


def part(bottoms, rank):
    return {name: array[rank * ITEMS : (rank + 1) * ITEMS] for name, array in bottoms.items()}


@pytest.mark.parametrize(("loss", "options"), list(cases()))
def test_the_ranks_losses_average_to_that_of_the_whole_batch(loss, options, engine, ranks):
    bottoms = batch(loss, options)
    whole = run(loss, options, bottoms, caffe.TEST)
    each = ranks.run(lambda rank: run(loss, options, part(bottoms, rank)))
    assert np.mean([found.loss for found in each]) == pytest.approx(whole.loss, rel=1e-6)
    for name, diff in whole.diffs.items():
        found = np.concatenate([found.diffs[name] for found in each]) / RANKS
        assert np.abs(found - diff).max() <= 1e-6 * np.abs(diff).max()


@pytest.mark.parametrize("name", ["euclidean", "softmax", "softmax, weights", "focal", "dice"])
def test_in_a_test_net_each_rank_is_for_itself(name, engine, ranks):
    loss = LOSSES[name]
    bottoms = batch(loss, json.loads(loss.options or "{}"))
    options = json.loads(loss.options or "{}")
    found = ranks.run(lambda rank: run(loss, options, part(bottoms, rank), caffe.TEST))
    assert ranks.calls == 0
    for rank, result in enumerate(found):
        assert result.loss == run(loss, options, part(bottoms, rank), caffe.TEST).loss


def test_a_rank_whose_labels_change_before_backward_keeps_pace(engine, ranks):
    """It computes what forward kept again; sums are then made as often as on the other ranks."""
    for name in ("channel sum", "softmax", "dice"):
        loss = LOSSES[name]
        bottoms = batch(loss, {})

        def work(rank, loss=loss, bottoms=bottoms):
            mine = part(bottoms, rank)
            net = load(net_text(python_layer(loss.name, list(mine), loss.options), mine), caffe.TRAIN)
            fill(net, mine)
            net.forward()
            if rank == 1:
                if "label" in mine:
                    net.blobs["label"].data[...] = 0
                net.layers[list(net._layer_names).index("loss")].kept = None
            net.backward()

        ranks.run(work)
