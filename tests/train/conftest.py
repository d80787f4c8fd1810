"""A folder to train in, and training in threads."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import caffe
import numpy as np
import pytest
from harness import training
from harness.thread_ranks import ThreadRanks

from pylayers.runtime import reduction
from pylayers.tools import cli, train
from pylayers.train import ranks, requests


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with data, the current one: 48 rows, with labels from 0 to 2."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    training.write_data(data=random.normal(size=(48, 6)), label=random.integers(0, 3, 48))
    return tmp_path


@pytest.fixture
def train_in_threads(folder, monkeypatch):
    """A function that trains: the name of a solver of `training.write`, or one for each rank; ranks; options.

    It returns the lines of the log. No signal is heard.
    """
    monkeypatch.setattr(caffe, "init_log", lambda *_: None)
    deaf = SimpleNamespace(take=lambda: requests.NONE, end_quietly=lambda: None)
    monkeypatch.setattr(train, "Signals", lambda *_: deaf)

    def run(names, count, *options):
        names = [names] * count if isinstance(names, str) else names
        given = [cli.parser().parse_args(["train", "--solver", f"{name}.prototxt", *options]) for name in names]
        found, log = ThreadRanks(count) if count > 1 else ranks.Ranks(), []
        with monkeypatch.context() as patch:
            patch.setattr(caffe, "log", log.append)
            patch.setattr(reduction, "ranks", reduction.OneRank())
            patch.setattr(ranks, "find", lambda: found)
            if count > 1:
                found.run(lambda number: train.run(given[number]))
            else:
                with ThreadPoolExecutor(1) as pool:  # Caffe's settings are those of a thread
                    pool.submit(train.run, *given).result()
        return log

    return run
