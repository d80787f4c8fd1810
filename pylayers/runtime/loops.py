"""The losses' loops on the CPU: compiled by Numba where it is installed, else made of NumPy's functions.

Two modules, `loops_numba` and `loops_numpy`, have the same functions, so that the layers need not care. Each also says
how large its pieces should be: TILE, in elements.
"""

import functools
import warnings

from pylayers.losses.weighted_softmax import formula as loops_numpy


@functools.cache
def chosen():
    """The module to use: `loops_numba`; or `loops_numpy` where Numba is not installed or told not to compile.

    Numba's own NUMBA_DISABLE_JIT=1 in the environment does the latter. Where Numba is there but does not import, as one
    that is too old for this NumPy, a warning says so.
    """
    try:
        import numba
    except ModuleNotFoundError as error:
        if error.name == "numba":
            return loops_numpy
        return _without_numba(error)
    except Exception as error:
        return _without_numba(error)
    if numba.config.DISABLE_JIT:
        return loops_numpy
    from pylayers.losses.weighted_softmax import loops as loops_numba

    return loops_numba


def _without_numba(error):
    reason = (str(error) or type(error).__name__).splitlines()[0]
    warnings.warn(f"losses run on NumPy alone, as Numba cannot be used: {reason}", RuntimeWarning, stacklevel=3)
    return loops_numpy
