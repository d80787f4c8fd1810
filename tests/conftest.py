"""Set-up for all tests."""

import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")  # Caffe reads it at import: errors only

import pytest

ROOT = Path(__file__).parent.parent
for folder in ("demo", "prototxt/own_loss"):
    sys.path.insert(0, str(ROOT / folder))


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    """The prototxt files name paths that start at the root of the clone."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def demo_data():
    """The data that the demo's nets read, as `make demo` writes them."""
    import datasets

    datasets.write_all(ROOT / "build/demo", ROOT / "prototxt/demo")
