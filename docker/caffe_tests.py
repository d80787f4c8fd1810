"""Runs Caffe's own Python tests, which docker/build_caffe.sh puts beside the virtual environment's Caffe.

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

for old, new in OLD_NAMES.items():
    if not hasattr(unittest.TestCase, old):
        setattr(unittest.TestCase, old, getattr(unittest.TestCase, new))

folder = Path(sys.prefix) / "share/caffe/python/caffe/test"
if not folder.is_dir():
    sys.exit(f"this Caffe was installed without its own tests: there is no {folder}")
suite = unittest.defaultTestLoader.discover(str(folder))
sys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())
