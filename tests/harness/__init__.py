"""What the tests share. Nothing here is a test."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The folder of the package that is tested: this clone, or where pip has installed it, as in the image.
KIT = Path(find_spec("pylayers").origin).parents[1]
