"""Threads that help the calling thread with its work, and that an interrupt cannot upset.

Ctrl-C raises KeyboardInterrupt in the main thread between any two of its bytecodes. The standard library's pools may
then leave a lock held, and the next call hangs. So the caller here takes no lock that it would have to give back. Each
change that it makes is one call in C: it puts something into a queue, sets a key of a dict that is not set yet, or says
which processors a helper may run on. Each may be done twice.
"""

import _thread
import contextlib
import ctypes
import os
from queue import SimpleQueue

# Up to this number helpers are moved, at 1 µs each. Among more processors there is a free one.
_FEW = 8
# Seconds between two looks at a helper that is not done. It wakes the caller itself; an interrupt can lose that.
_LOOK = 0.05
# The number of the processor that the caller runs on; Python has no function for it.
_processor = getattr(ctypes.PyDLL(None), "sched_getcpu", lambda: -1)


class _Share:
    """One helper's share of some work: a function that both the caller and the helpers call."""

    def __init__(self, take):
        self.take = take
        self.error = None
        self._owner = {}
        self._is_done = False
        self._wake = _thread.allocate_lock()
        self._wake.acquire()

    def run(self):
        """In a helper: does the work, unless the caller has taken the share back."""
        if self._owner.setdefault("owner", "helper") != "helper":
            return
        try:
            self.take()
        except BaseException as error:
            self.error = error
        self._is_done = True
        self._wake.release()

    def finish(self):
        """In the caller: takes the share back, or waits until its helper is done. It may be called again."""
        if self._owner.setdefault("owner", "caller") == "helper":
            while not self._is_done:
                self._wake.acquire(timeout=_LOOK)


class _Helpers:
    """The helper threads of this process."""

    def __init__(self):
        self.forget()

    def forget(self):
        """Begins anew, as in a child process, which has none of its parent's threads."""
        self._shares = SimpleQueue()
        self._started, self._ids = [], []
        self._apart = None

    def start(self, count):
        """Starts threads until there are `count`, or as many as the system allows."""
        with contextlib.suppress(RuntimeError):
            while len(self._started) < count:
                _thread.start_new_thread(self._help, ())
                self._started.append(True)

    def keep_apart(self):
        """Keeps the helpers off the processor that the caller runs on.

        OpenBLAS's threads go on spinning after Caffe's layers. Linux then takes their processor for a busy one, and a
        helper may wait for the caller's, though the spinning threads would give way to it. Nothing but the kit's own
        work runs in a helper, so nothing else is bound.
        """
        here = _processor(), len(self._ids)
        if here == self._apart or len(self._ids) > _FEW:
            return
        others = os.sched_getaffinity(0) - {here[0]}
        if others:
            for thread in list(self._ids):
                with contextlib.suppress(OSError):  # not allowed here: then they run where they run
                    os.sched_setaffinity(thread, others)
        self._apart = here

    def number(self):
        """The number of threads that there are."""
        return len(self._started)

    def put(self, share):
        """Hands a share to the next helper that is free."""
        self._shares.put(share)

    def _help(self):
        self._ids.append(_thread.get_native_id())
        while True:
            self._shares.get().run()


_helpers = _Helpers()


def share(take, helpers):
    """Calls a function here, and at the same time in other threads that are free.

    When this returns or raises, none of them is in the function any more, nor will be.

    Args:
        take: the function, without arguments. It returns when nothing is left to do.
        helpers: the number of other threads.

    Raises:
        BaseException: what the function raised here, or else in another thread.
    """
    shares = [_Share(take) for _ in range(helpers)]
    try:
        try:
            _helpers.start(helpers)
            _helpers.keep_apart()
            for each in shares[: _helpers.number()]:
                _helpers.put(each)
            take()
        finally:
            for each in shares:
                each.finish()
    finally:  # once more, as an interrupt may have come while they were finished
        for each in shares:
            each.finish()
    for each in shares:
        if each.error is not None:
            raise each.error


os.register_at_fork(after_in_child=_helpers.forget)
