"""Runs Caffe's own Python tests: run_caffe_tests.py [FOLDER]. By default those that lie beside this Caffe's wheel.

Python 3.12 took away names of unittest that those tests use; they are given back here, so that no
test is left out.
"""

import importlib.metadata
import json
import sys
import unittest
import urllib.parse
from pathlib import Path

OLD_NAMES = {
    "assertEquals": "assertEqual",
    "assertRaisesRegexp": "assertRaisesRegex",
}


def kept():
    """Where docker/build_caffe.sh keeps them: beside the wheel that pip has installed."""
    try:
        wheel = json.loads(importlib.metadata.distribution("bvlc-caffe").read_text("direct_url.json"))["url"]
    except (importlib.metadata.PackageNotFoundError, TypeError):
        sys.exit(
            "this Caffe is no wheel that docker/build_caffe.sh has built and kept, with Caffe's own tests beside it"
        )
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(wheel).path)).parent / "tests"


def run(folder):
    """Runs the tests in a folder; returns whether all passed."""
    if not folder.is_dir():
        sys.exit(f"Caffe's own tests are not here: there is no {folder}; docker/build_caffe.sh makes it as it builds")
    for old, new in OLD_NAMES.items():
        if not hasattr(unittest.TestCase, old):
            setattr(unittest.TestCase, old, getattr(unittest.TestCase, new))
    suite = unittest.defaultTestLoader.discover(str(folder))
    return unittest.TextTestRunner().run(suite).wasSuccessful()


if __name__ == "__main__":
    sys.exit(not run((Path(sys.argv[1]) if sys.argv[1:] else kept()) / "python/caffe/test"))
