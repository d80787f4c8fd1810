"""Several processes of a training, played by threads of this one: `reduction.ranks` without MPI.

Caffe keeps its mode, its solver's number and its random numbers for each thread apart.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

from pylayers.errors import UserError
from pylayers.train.ranks import Ranks


class ThreadRanks(Ranks):
    """The ranks; what they add is added up in the order of their numbers."""

    def __init__(self, count):
        super().__init__()
        self.count = count
        self.calls = 0
        self._own = threading.local()
        self._given = [None] * count
        self._barrier = threading.Barrier(count, timeout=20)

    @property
    def number(self):
        return self._own.number

    def gather(self, value):
        self._given[self.number] = value
        self._barrier.wait()
        found = list(self._given)
        self.calls += self.number == 0
        self._barrier.wait()
        return found

    def add(self, array, purpose="losses"):
        self.traffic[purpose] += 1, array.nbytes, 0
        array[...] = sum(self.gather(array.copy()))

    def share(self, array):
        array[...] = self.gather(array.copy())[0]

    def fail(self, status, message):
        raise threading.BrokenBarrierError if "BrokenBarrierError" in message else UserError(message)

    def run(self, work):
        """Calls `work` with each rank's number, side by side; returns what each returned."""
        with ThreadPoolExecutor(self.count) as pool:
            tasks = [pool.submit(self._call, number, work) for number in range(self.count)]
        errors = [task.exception() for task in tasks if task.exception()]
        for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error
        return [task.result() for task in tasks]

    def _call(self, number, work):
        self._own.number = number
        try:
            return work(number)
        except BaseException:
            self._barrier.abort()
            raise
