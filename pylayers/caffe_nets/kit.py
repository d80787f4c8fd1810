"""The kit itself, where a user has a module called pylayers too: which of them Python finds, and how to get this one.

It needs nothing of the kit, so that it can be run before that is imported.
"""

import importlib.machinery
import importlib.util
import os
import sys

FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def bind():
    """Makes this process import this kit, whatever else is called pylayers on its path."""
    if "pylayers" in sys.modules:
        return
    file = os.path.join(FOLDER, "__init__.py")
    spec = importlib.util.spec_from_file_location("pylayers", file, submodule_search_locations=[FOLDER])
    module = sys.modules["pylayers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def shadow():
    """The file or folder on the module path that Python takes for pylayers, and that is not this kit; None for none."""
    spec = importlib.machinery.PathFinder.find_spec("pylayers", sys.path)
    if spec is None:  # it is found in another way, such as that of pip install -e
        return None
    places = spec.submodule_search_locations
    place = next(iter(places)) if places else spec.origin
    return None if os.path.realpath(place) == os.path.realpath(FOLDER) else place


def shadow_words(place):
    """What is wrong with a `shadow`, and what to do, in a line each."""
    found = f'{place} comes before the kit, {FOLDER}, on Python\'s path: module: "pylayers" in a net is that one'
    return found, f"another name for {place}, or take {os.path.dirname(place)} off PYTHONPATH"
