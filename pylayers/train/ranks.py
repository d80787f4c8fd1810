"""The processes that train one net together: this one alone, or those that mpirun or srun has started."""

import os
import socket
import sys

import numpy as np

from pylayers.errors import UserError

# What launchers tell each process of their number: Open MPI's, MPICH's and Intel's, Slurm's.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_NUM_TASKS")


class Ranks:
    """One process, the only one."""

    number, count = 0, 1

    def add(self, array):
        """Sums an array over all ranks, in place."""

    def share(self, array):
        """Gives all ranks rank 0's numbers, in place."""

    def most_urgent(self, request):
        """The largest of the ranks' requests, which are whole numbers."""
        return request

    def fail(self, status):
        """Ends this process, and all others with it."""
        sys.exit(status)


class MpiRanks(Ranks):
    """One of the processes of an MPI communicator."""

    def __init__(self, communicator, in_place):
        """Takes mpi4py's communicator and its constant IN_PLACE."""
        self._communicator, self._in_place = communicator, in_place
        self.number, self.count = communicator.Get_rank(), communicator.Get_size()

    def add(self, array):
        """Sums an array over all ranks, in place."""
        self._communicator.Allreduce(self._in_place, array)

    def share(self, array):
        """Gives all ranks rank 0's numbers, in place."""
        self._communicator.Bcast(array)

    def most_urgent(self, request):
        """The largest of the ranks' requests, which are whole numbers."""
        found = np.zeros(self.count, np.int32)
        found[self.number] = request
        self.add(found)
        return int(found.max())

    def fail(self, status):
        """Ends all processes, and says which rank began it."""
        print(f"rank {self.number} of {self.count} on {socket.gethostname()} ends the training", file=sys.stderr)
        sys.stderr.flush()
        self._communicator.Abort(status)


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
            "pip install 'pylayers[mpi]'"
        ) from None
    return MpiRanks(MPI.COMM_WORLD, MPI.IN_PLACE)
