"""C's rand(), with which HDF5Data shuffles: other numbers for a while."""

import contextlib
import ctypes

_STATE_BYTES = 128  # what glibc's own state has


class OwnNumbers:
    """Numbers of rand() that are drawn in blocks of `using` alone; outside them it goes on as if there were none."""

    def __init__(self):
        """Begins as each process does, from 1."""
        self._libc = ctypes.CDLL(None)
        for function in (self._libc.initstate, self._libc.setstate):
            function.restype = ctypes.c_void_p
        self._state = ctypes.create_string_buffer(_STATE_BYTES)
        before = self._libc.initstate(1, self._state, _STATE_BYTES)
        self._libc.setstate(ctypes.c_void_p(before))

    @contextlib.contextmanager
    def using(self):
        """Draws these numbers while the block runs."""
        before = self._libc.setstate(self._state)
        try:
            yield
        finally:
            self._libc.setstate(ctypes.c_void_p(before))
