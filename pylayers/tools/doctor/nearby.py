"""`pylayers doctor`: files and modules that are not where Caffe looks for them, but near the net or the solver."""

import os
from pathlib import Path

_DEEPEST, _MOST = 3, 3000
_SKIPPED = {"__pycache__", "node_modules", "site-packages"}


def find(name, *files):
    """A file of the name that a net or a solver asks for, near it.

    Args:
        name: the path as it is written, which is none from here.
        *files: paths of the net, and of the solver.

    Returns:
        A path from the current folder; None where there is no such file.
    """
    folders = list(dict.fromkeys(Path(file).resolve().parent for file in files))
    for folder in folders:
        for place in (folder, *folder.parents):
            if (place / name).exists():
                return os.path.relpath(place / name)
    last = Path(name).name
    for folder in folders:
        for place in _below(folder):
            if last and (place / last).exists():
                return os.path.relpath(place / last)
    return None


def module_folder(name, *files, but=None):
    """The folder that has to be on PYTHONPATH for a module near a net; None where there is no such module.

    Args:
        name: the module's, with dots.
        *files: paths of the net, and of the solver.
        but: a folder that is not meant.
    """
    path = Path(*name.split("."))
    beside = [Path(file).resolve().parent for file in files]
    for place in dict.fromkeys([Path.cwd(), *(each for folder in beside for each in _below(folder))]):
        if str(place) != but and any(list(place.glob(f"{path}{end}")) for end in (".py", "/__init__.py", "*.so")):
            return str(place)
    return None


def _below(folder):
    """A folder and those below it, the nearest first, up to a depth and a number."""
    if folder == Path(folder.anchor) or folder in (Path.home(), Path("/tmp")):
        return [folder]  # too much lies below these, and none of it is meant
    found = [folder]
    for place in found:
        if len(place.parts) - len(folder.parts) < _DEEPEST and len(found) < _MOST:
            try:
                inner = sorted(each for each in place.iterdir() if each.is_dir() and not each.is_symlink())
            except OSError:
                continue
            found += [each for each in inner if each.name not in _SKIPPED and not each.name.startswith(".")]
    return found
