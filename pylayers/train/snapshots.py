"""Snapshots, whole or not at all: Caffe writes them aside, and they get their names when both files are there."""

import contextlib
import glob
import os
import shutil

import caffe
from caffe.proto import caffe_pb2
from google.protobuf.message import DecodeError

from pylayers.errors import UserError
from pylayers.train import solver as solvers


def check(param):
    """Checks that snapshots can be written, before anything is trained.

    Raises:
        UserError: there is no such folder, it cannot be written to, or the format needs h5py, which is not there.
    """
    folder = os.path.dirname(param.snapshot_prefix) or "."
    if not os.access(folder, os.W_OK):
        what = "cannot be written to" if os.path.isdir(folder) else "is not there"
        raise UserError(f'the folder {folder} of snapshot_prefix "{param.snapshot_prefix}" {what}')
    if param.snapshot_format == caffe_pb2.SolverParameter.HDF5:
        try:
            import h5py  # noqa: F401
        except ImportError:
            raise UserError("snapshot_format: HDF5 needs h5py here; pip install h5py, or leave it out") from None
    remove_parts(f"{solvers.part_prefix(param.snapshot_prefix)}_iter_")  # of a training that was killed


def check_state(path):
    """Checks that a file is a solver's state, before Caffe ends the process for it.

    Raises:
        UserError: it is none, or the .caffemodel that it names is not there.
    """
    if path.endswith(".h5"):
        return
    state = caffe_pb2.SolverState()
    try:
        with open(path, "rb") as file:
            state.ParseFromString(file.read())
    except DecodeError:
        state.Clear()
    if not state.history or not state.HasField("learned_net"):
        raise UserError(f"{path} is no .solverstate of Caffe, which has the solver's history and names a .caffemodel")
    if not os.path.isfile(state.learned_net):
        raise UserError(f"{path} needs {state.learned_net}, its .caffemodel, which is not there")


def save(solver, param):
    """Saves the parameters and the solver's state.

    Returns:
        The path of the .solverstate.

    Raises:
        UserError: the disk has no room for them, or has cut off what Caffe wrote.
    """
    end = ".h5" if param.snapshot_format == caffe_pb2.SolverParameter.HDF5 else ""
    part = f"{solvers.part_prefix(param.snapshot_prefix)}_iter_{solver.iter}"
    model, state = (
        f"{param.snapshot_prefix}_iter_{solver.iter}{kind}{end}" for kind in (".caffemodel", ".solverstate")
    )
    size = 4 * sum(blob.count for blobs in solver.net.params.values() for blob in blobs)
    history = 4 * sum(blob.count for blob in solvers.parameters(solver.net))
    history *= 2 if param.type in ("AdaDelta", "Adam") else 1
    _check_room(part, size * (2 if param.snapshot_diff else 1) + history)
    try:
        solver.snapshot()
        for path, least in ((f"{part}.caffemodel{end}", size), (f"{part}.solverstate{end}", history)):
            if os.path.getsize(path) < least:
                raise UserError(f"{path} was cut off: is the disk full?")
        (_name_model_hdf5 if end else _name_model)(f"{part}.solverstate{end}", model)
        with contextlib.suppress(FileNotFoundError):
            os.remove(state)  # of another training: it would name this model
        os.replace(f"{part}.caffemodel{end}", model)
        os.replace(f"{part}.solverstate{end}", state)
    except OSError as error:
        raise UserError(f"cannot write the snapshot {model}: {error.strerror or error}") from None
    finally:
        remove_parts(part)
    caffe.log(f"Snapshot {model} and {state} are whole")
    return state


def remove_parts(prefix):
    """Removes what was written aside under names that begin so."""
    for path in glob.glob(f"{glob.escape(prefix)}*"):
        os.remove(path)


def _check_room(path, size):
    """Caffe would end the process in the middle of a file."""
    folder = os.path.dirname(path) or "."
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(f"no room for a snapshot in {folder}: it takes {size} bytes, and {free} are free")


def _name_model(path, model):
    """Writes into a solver's state which file has its parameters: a field's last value counts."""
    with open(path, "ab") as file:
        file.write(caffe_pb2.SolverState(learned_net=model).SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def _name_model_hdf5(path, model):
    import h5py

    with h5py.File(path, "r+") as file:
        del file["learned_net"]
        file.create_dataset("learned_net", data=model, dtype=f"S{len(model) + 1}")
