"""Imports of packages that not every install has."""

import importlib

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
