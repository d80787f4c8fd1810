"""The nets in prototxt/."""

import re

from harness import ROOT
from pylayers import LAYER_MODULES

FOLDER = ROOT / "prototxt"
# A loss of your own has no twin; its tests are in test_array_layer.py.
NETS = sorted(
    path
    for path in FOLDER.glob("**/*.prototxt")
    if not path.stem.endswith("_solver") and path.parent.name != "own_loss"
)
PYTHON_NETS = [path for path in NETS if not path.stem.endswith("_builtin")]
# Caffe's layers cannot compute Dice of several classes.
WITHOUT_TWIN = [FOLDER / "demo/segmentation_dice.prototxt"]
TWINS = [path for path in PYTHON_NETS if path not in WITHOUT_TWIN]
# Of each loss of the kit: its module is losses/STEM.py or losses/STEM/layer.py.
LOSS_STEMS = sorted(re.sub(r".*losses\.(\w+).*", r"\1_loss", module) for module in LAYER_MODULES.values())
EXAMPLES = [path for path in PYTHON_NETS if path.parent == FOLDER]


def ids(paths):
    return [str(path.relative_to(FOLDER).with_suffix("")) for path in paths]
