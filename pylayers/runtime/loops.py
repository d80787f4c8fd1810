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

    What is compiled is kept on disk where a folder for that can be written. A file there that is cut short is compiled
    anew, and a disk that is full costs a warning: Numba alone would end the training in both cases.

    Args:
        **flags: more arguments of `numba.njit`, such as ``fastmath={"reassoc"}``.
    """
    import numba

    # Said in each case: a loop without it would be compiled with that of the first loop that calls it.
    flags = {"fastmath": False, **flags}

    def decorate(function):
        try:
            dispatcher = numba.njit(function, nogil=True, error_model="numpy", cache=True, **flags)
            dispatcher._cache = _sturdy_cache()(function)
        except RuntimeError:  # neither this file's folder nor the user's can be written
            return numba.njit(function, nogil=True, error_model="numpy", **flags)
        return dispatcher

    return decorate


@functools.cache
def _sturdy_cache():
    """The class of Numba's cache on disk, with no errors."""
    from numba.core.caching import FunctionCache

    class SturdyCache(FunctionCache):
        def load_overload(self, sig, target_context):
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # of pickle, for a file that is cut short
                return None

        def save_overload(self, sig, data):
            try:
                try:
                    super().save_overload(sig, data)
                except OSError:
                    raise
                except Exception:  # the list of what is there is cut short: begin a new one
                    self.flush()
                    super().save_overload(sig, data)
            except OSError as error:
                _warn_of_cache(self.cache_path, error.strerror)

    return SturdyCache


@functools.cache
def _warn_of_cache(folder, reason):
    """Warns once for each folder and reason."""
    warnings.warn(
        f"loops are compiled anew in each run, since Numba's cache in {folder} cannot be written: {reason}",
        RuntimeWarning,
        stacklevel=2,
    )
