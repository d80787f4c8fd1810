"""Packages that not every install has: how they are imported, and what is wrong with a file of theirs."""

import importlib
import os

from pylayers.errors import UserError


def need(module, extra):
    """Imports an optional package.

    Args:
        module: the module's name, such as "h5py" or "PIL.Image".
        extra: the extra of pylayers that installs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(
            f"{error.name} is not installed; pip install '.[{extra}]' in the clone of pylayers brings it"
        ) from None


def why_unread(path, error):
    """Why h5py does not open a file, in a few words; HDF5's own message is a paragraph on its C functions.

    Args:
        path: the file.
        error: the OSError.
    """
    if isinstance(error, PermissionError):
        return os.strerror(error.errno)
    if os.path.isdir(path):
        return "it is a folder"
    if not os.path.exists(path):
        return "there is no such file"
    return "it is cut short" if "truncated file" in str(error) else "it is no HDF5 file"
