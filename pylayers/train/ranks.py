"""The processes that train one net together: this one alone, or those that mpirun or srun has started."""

import collections
import os
import socket
import sys
import time
from typing import NamedTuple

import numpy as np

from pylayers.errors import UserError
from pylayers.runtime.reduction import OneRank

# What launchers tell each process of their number: Open MPI's, MPICH's and Intel's, Slurm's.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")


class _Failure(NamedTuple):
    number: int
    status: int


class Ranks(OneRank):
    """One process, the only one.

    Attributes:
        number: of this process, from 0.
        count: of all processes.
        local_number: of this process among those of its host.
        local_count: the number of those.
        host: the host's name.
        is_training: whether the training has begun, in which ranks meet in sums, too.
        traffic: for each purpose what was sent: calls, bytes and seconds.
    """

    local_number, local_count = 0, 1
    is_training = False

    def __init__(self):
        self.host = socket.gethostname()
        self.traffic = collections.defaultdict(lambda: np.zeros(3))

    def gather(self, value):
        """What each rank gives, a list on every rank."""
        return [value]

    def threads(self):
        """The number of threads to compute with: its cores, of which those that several processes have are shared."""
        mine = os.sched_getaffinity(0)
        every = self.gather((self.host, mine))
        return max(1, len(mine) // sum(host == self.host and bool(cores & mine) for host, cores in every))

    def local_gpus(self):
        """A GPU for each process of this host: those that it sees, or where a launcher shows each its own, that one."""
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        count = len(seen.split(",")) if seen else self.local_count
        return [number % count for number in range(self.local_count)]

    def name(self, number=None):
        """This rank, or another, as messages name it."""
        return f"rank {self.number if number is None else number} of {self.count}"

    def raise_alike(self, error):
        """Raises an error that all ranks have found, on rank 0 alone; the others wait for the end that it brings."""
        if self.number:
            self.gather(None)
        raise error


class MpiRanks(Ranks):
    """One of the processes of an MPI communicator."""

    def __init__(self, mpi):
        """Takes mpi4py's module MPI."""
        super().__init__()
        self._mpi, self._communicator = mpi, mpi.COMM_WORLD
        self.number, self.count = self._communicator.Get_rank(), self._communicator.Get_size()
        local = self._communicator.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_number, self.local_count = local.Get_rank(), local.Get_size()
        local.Free()

    def add(self, array, purpose="losses"):
        """Sums an array over all ranks, in place."""
        start = time.perf_counter()
        self._communicator.Allreduce(self._mpi.IN_PLACE, array)
        self.traffic[purpose] += 1, array.nbytes, time.perf_counter() - start

    def share(self, array):
        """Gives all ranks rank 0's numbers, in place."""
        self._communicator.Bcast(array)

    def gather(self, value):
        """What each rank gives, a list on every rank. Where one gives a failure, all end."""
        found = self._communicator.allgather((None, value))
        failed = next((failure for failure, _ in found if failure), None)
        if failed:
            sys.exit(failed.status)
        return [value for _, value in found]

    def fail(self, status, message):
        """Says what went wrong, on which rank, and ends all processes.

        Before the training, when all ranks meet in `gather` alone, they end in order, and the first that has failed
        says why.
        """
        words = f"{message}\n{self.name()} on {self.host} ends the training"
        if self.is_training:
            print(words, file=sys.stderr, flush=True)
            self._communicator.Abort(status)
        found = self._communicator.allgather((_Failure(self.number, status), None))
        if next(failure for failure, _ in found if failure).number == self.number:
            print(words, file=sys.stderr, flush=True)
        sys.exit(status)


def find():
    """The ranks that this process belongs to.

    Raises:
        UserError: a launcher has started several processes, and there is no mpi4py.
    """
    count = next((int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdecimal()), 1)
    if count == 1:
        return Ranks()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise UserError(
            f"{count} processes were started, and this Python has no MPI to join them ({error}); "
            "pip install '.[mpi]' in the clone of pylayers brings one"
        ) from None
    found = MpiRanks(MPI)
    if found.count != count:
        raise UserError(
            f"{count} processes were started, and mpi4py finds {found.count}: it belongs to another MPI than the "
            "launcher; pip install --no-binary mpi4py mpi4py builds it for the one that is loaded"
        )
    return found
