"""The nets in prototxt/."""

from harness import ROOT

FOLDER = ROOT / "prototxt"
# A loss of your own has no twin; its tests are in test_array_layer.py.
NETS = sorted(
    path
    for path in FOLDER.glob("**/*.prototxt")
    if not path.stem.endswith("_solver") and path.parent.name != "own_loss"
)
PYTHON_NETS = [path for path in NETS if not path.stem.endswith("_builtin")]
LOSS_STEMS = sorted(f"{path.parent.name}_loss" for path in (ROOT / "pylayers/losses").glob("*/layer.py"))
EXAMPLES = [path for path in PYTHON_NETS if path.parent == FOLDER]


def ids(paths):
    return [str(path.relative_to(FOLDER).with_suffix("")) for path in paths]
