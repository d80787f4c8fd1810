"""Arrays from an HDF5 file, for the bottoms and inputs that a user gives."""

import numpy as np

from pylayers.errors import UserError
from pylayers.runtime.optional import need, why_unread


def read_arrays(path):
    """The data sets at the top of an HDF5 file, a dict from name to array.

    Raises:
        UserError: it cannot be read, or a data set holds no numbers.
    """
    h5py = need("h5py", "demo")
    try:
        with h5py.File(path, "r") as file:
            values = {name: np.asarray(item[()]) for name, item in file.items() if isinstance(item, h5py.Dataset)}
    except OSError as error:
        raise UserError(f"cannot read {path}: {why_unread(path, error)}") from None
    for name, value in values.items():
        if not np.issubdtype(value.dtype, np.number):
            raise UserError(f'"{name}" in {path} holds {value.dtype}, and no numbers')
    return values
