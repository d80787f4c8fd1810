"""Numba, which compiles the losses' loops on the CPU: whether there is one, and how it is told to.

A loss has its loops in a module of its own, ``loops.py`` beside the formula. The layer takes it from `module`. Where
that gives None there is no Numba, and the layer computes its formula by NumPy.
"""

import functools
import importlib
import warnings

from pylayers.errors import first_line

# For `compiled`: sums may be taken in any order, and so in vectors. NaN and infinity are kept.
REORDERED = {"reassoc", "contract", "nsz"}


@functools.cache
def enabled():
    """Whether Numba is there and told to compile, which NUMBA_DISABLE_JIT=1 in the environment denies.

    A Numba that is there but does not import, such as one too old for this NumPy, is told in a warning.
    """
    return is_usable()


def is_usable():
    """What `enabled` says, found out anew."""
    try:
        import numba
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "numba"):
            reason = f"losses run on NumPy alone, as Numba cannot be used: {first_line(error)}"
            warnings.warn(reason, RuntimeWarning, stacklevel=3)
        return False
    return not numba.config.DISABLE_JIT


def module(name):
    """The module of loops with that full name; None where there is no Numba to compile it."""
    return importlib.import_module(name) if enabled() else None


def compiled(**flags):
    """The decorator of a loop: compiled without the GIL, and kept on disk where a folder for that can be written.

    Args:
        **flags: of `numba.njit`, such as ``fastmath={"reassoc"}``.
    """
    import numba

    def decorate(function):
        try:
            return numba.njit(function, nogil=True, error_model="numpy", cache=True, **flags)
        except RuntimeError:  # neither this file's folder nor the user's can be written
            return numba.njit(function, nogil=True, error_model="numpy", **flags)

    return decorate
