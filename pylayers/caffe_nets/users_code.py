"""Where in a user's own code an exception was raised."""

import os
import sysconfig
import traceback
from typing import NamedTuple

import pylayers
from pylayers.errors import first_line

_KIT = os.path.dirname(os.path.abspath(pylayers.__file__))
_OTHERS = tuple({_KIT, *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))})


class Place(NamedTuple):
    """A line of a user's."""

    file: str
    line: int
    function: str
    code: str

    def __str__(self):
        return f"{self.file}:{self.line}, in {self.function}: {self.code}"


def place_of(error):
    """The `Place` of the last of an exception's frames that is neither the kit's nor a package's; None for none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if os.path.isfile(frame.filename) and not frame.filename.startswith(_OTHERS):
            return Place(os.path.relpath(frame.filename), frame.lineno, frame.name, frame.line)
    return None


def described(error):
    """An exception in one line, with its place in the user's code if it has one."""
    said = first_line(error)
    if str(error).strip() and not isinstance(error, ImportError):
        said = f"{type(error).__name__}: {said}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({os.path.relpath(error.filename)}:{error.lineno})"
    place = place_of(error)
    return f"{said} ({place})" if place else said
