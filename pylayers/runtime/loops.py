"""Numba, which compiles the losses' loops for the CPU: whether it is there, and how it compiles them.

A loss has its loops in a module of its own, ``loops.py`` beside the formula. The layer takes it from `module`. Where
that gives None there is no Numba, and the layer computes its formula with NumPy.
"""

import functools
import importlib
import warnings

from pylayers.errors import first_line

# A `fastmath` for `compiled`: sums may be added in any order, and so in vectors. NaN and infinity are kept.
REORDERED = {"reassoc", "contract", "nsz"}


@functools.cache
def enabled():
    """Whether Numba is installed and may compile, which NUMBA_DISABLE_JIT=1 in the environment forbids.

    Where Numba is installed but cannot be imported, such as one too old for this NumPy, a warning says so.
    """
    return is_usable()


def is_usable():
    """Does what `enabled` does, without remembering the answer."""
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
    """The decorator that compiles a loop, so that it runs without the GIL.

    What is compiled is kept on disk where a folder for that can be written.

    Args:
        **flags: more arguments of `numba.njit`, such as ``fastmath={"reassoc"}``.
    """
    import numba

    def decorate(function):
        try:
            return numba.njit(function, nogil=True, error_model="numpy", cache=True, **flags)
        except RuntimeError:  # neither this file's folder nor the user's can be written
            return numba.njit(function, nogil=True, error_model="numpy", **flags)

    return decorate
