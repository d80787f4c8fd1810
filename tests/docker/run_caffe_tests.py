"""Runs Caffe's own Python tests, which docker/build_caffe.sh keeps beside the wheel: run_caffe_tests.py FOLDER.

Python 3.12 took away names of unittest that those tests use; they are given back here, so that no
test is left out.
"""

import sys
import unittest
from pathlib import Path

OLD_NAMES = {
    "assertEquals": "assertEqual",
    "assertRaisesRegexp": "assertRaisesRegex",
}


def run(folder):
    """Runs the tests below a folder; returns whether all passed."""
    if not folder.is_dir():
        sys.exit(f"Caffe's own tests are not here: there is no {folder}; docker/build_caffe.sh keeps them as it builds")
    for old, new in OLD_NAMES.items():
        if not hasattr(unittest.TestCase, old):
            setattr(unittest.TestCase, old, getattr(unittest.TestCase, new))
    suite = unittest.defaultTestLoader.discover(str(folder))
    return unittest.TextTestRunner().run(suite).wasSuccessful()


if __name__ == "__main__":
    sys.exit(not run(Path(sys.argv[1]) / "python/caffe/test"))
