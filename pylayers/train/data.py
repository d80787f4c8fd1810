"""The layers that give a net its data: which of them deal their rows to the ranks, and how to move them on."""

import hashlib
import math
import os

from caffe.proto import caffe_pb2

from pylayers.errors import UserError
from pylayers.runtime.optional import need
from pylayers.runtime.progress import progress_bar

# In phase TRAIN each rank gets every P-th row of these; in phase TEST all get all rows.
DEALT = ("Data", "HDF5Data")
_UNDEALT = ("ImageData", "WindowData", "MemoryData", "Input")
_SOURCES = {"Data": "data_param", "HDF5Data": "hdf5_data_param"}
_CURE = "put the rows into an LMDB or HDF5 files, which Data and HDF5Data deal to the processes; --same-data trains so"


def sources(net):
    """The indices of the layers that bring data into a net, which has been loaded."""
    return [
        index
        for index, layer in enumerate(net.layers)
        if not list(net._bottom_ids(index)) and layer.type not in ("Input", "Parameter")
    ]


def check_net(net, ranks):
    """Checks, before Caffe ends the process for it, that this rank can read what a net reads.

    Args:
        net: a NetParameter with the layers of its phase.
        ranks: a `Ranks`.

    Raises:
        UserError: a source is not there; with several ranks, a source is a LEVELDB, which one process alone can open,
            or the net is one of those that `pylayers train` knows only in one process.
    """
    if ranks.count > 1 and net.layers:
        raise UserError(f'net "{net.name}" is of the old format, with "layers"; upgrade_net_proto_text upgrades it')
    for layer in net.layer:
        if layer.type not in _SOURCES:
            continue
        block = getattr(layer, _SOURCES[layer.type])
        if not os.path.exists(block.source):
            raise UserError(f'layer "{layer.name}": there is no {block.source} here, in {os.getcwd()}')
        if ranks.count > 1 and layer.type == "Data" and block.backend == caffe_pb2.DataParameter.LEVELDB:
            raise UserError(
                f'layer "{layer.name}": {block.source} is read as LEVELDB, Caffe\'s default, which one process alone '
                "can open; make it an LMDB (convert_imageset --backend lmdb), and write backend: LMDB"
            )
    shuffled = [layer.name for layer in net.layer if layer.type == "HDF5Data" and layer.hdf5_data_param.shuffle]
    if ranks.count > 1 and len(shuffled) > 1:
        raise UserError(
            f"layers {shuffled} of one net shuffle with one rand(), and several processes would draw in another order: "
            "put their rows into the same HDF5 files, for one layer"
        )


def check_dealt(layers, ranks):
    """Checks that no layer is of a type that gives all ranks the same rows.

    Args:
        layers: the LayerParameters of the train net.
        ranks: a `Ranks`.

    Raises:
        UserError: one is.
    """
    for layer in layers:
        if layer.type in _UNDEALT:
            raise UserError(
                f'layer "{layer.name}": {layer.type} gives all {ranks.count} processes the same rows; {_CURE}'
            )


class FirstBatch:
    """The first batch of the layers whose rows nobody knows, such as Python layers, as a hash for each."""

    def __init__(self, net):
        """Hears of the forward of these layers, as the layers after them may change the rows in place."""
        found = sources(net)
        unknown = [index for index in found if net.layers[index].type not in DEALT]
        # A DummyData layer of constants beside other data is one: numbers that are meant to be the same.
        asked = [index for index in unknown if net.layers[index].type != "DummyData"] or (
            unknown if len(unknown) == len(found) else []
        )
        self._net, self._asked, self._hashes = net, asked, {}
        if asked:
            net.after_forward(self._note)

    def _note(self, index):
        if index in self._asked and index not in self._hashes:
            found = hashlib.sha256()
            for top in self._net._top_ids(index):
                found.update(self._net._blobs[top].data)
            self._hashes[index] = found.hexdigest()

    def check(self, ranks):
        """Checks that no two ranks have the same. All ranks must call it.

        Raises:
            UserError: on rank 0, two have.
        """
        every = ranks.gather(self._hashes)
        for index in self._asked:
            digests = [hashes[index] for hashes in every]
            twin = next((number for number, digest in enumerate(digests) if digest in digests[:number]), None)
            if twin is not None:
                name, kind = self._net._layer_names[index], self._net.layers[index].type
                ranks.raise_alike(
                    UserError(
                        f'layer "{name}" ({kind}) has given rank {digests.index(digests[twin])} and rank {twin} the '
                        "same first batch: let a Python layer take every caffe.solver_count()-th row from row "
                        "caffe.solver_rank() on; --same-data trains so"
                    )
                )


def skip(net, indices, batches):
    """Moves data layers on by some batches."""
    for _ in range(batches):
        for index in indices:
            net._forward(index, index)


class Position:
    """Moves the data layers of a solver's nets to where a training leaves them."""

    def __init__(self, solver, param, nets, ranks, numbers):
        """Prepares it.

        Args:
            solver: the solver, whose data layers are at their start.
            param: its SolverParameter.
            nets: the NetParameters of its nets, the train net first.
            ranks: a `Ranks`.
            numbers: a context manager that gives the test nets numbers of rand() of their own, see `loop.Training`.
        """
        self._nets = [solver.net, *solver.test_nets]
        self._batches = [max(1, param.iter_size), *param.test_iter]
        self._sources = [sources(net) for net in self._nets]
        self._param = param
        steps = [ranks.count, *[1] * len(solver.test_nets)]
        self._periods = [None if net.layers else _period(net.layer, step) for net, step in zip(nets, steps)]
        self._numbers = numbers

    def go_to(self, iteration):
        """Does it for a training that has come to an iteration, whose own test is still to come."""
        if None not in self._periods:
            self._go_at_once(iteration)
            return
        with progress_bar("moving the data on", iteration) as advance:
            for number in range(iteration):
                if self._tests(number):
                    with self._numbers():
                        self._skip(range(1, len(self._nets)))
                self._skip([0])
                advance()

    def _tests(self, iteration):
        every = self._param.test_interval
        return every > 0 and iteration % every == 0 and (iteration > 0 or self._param.test_initialization)

    def _go_at_once(self, iteration):
        """Each net by itself, without whole epochs: where nothing is drawn, only the place in the data counts."""
        tests = sum(map(self._tests, range(iteration)))
        for index, times in enumerate([iteration] + [tests] * (len(self._nets) - 1)):
            skip(self._nets[index], self._sources[index], times * self._batches[index] % self._periods[index])

    def _skip(self, indices):
        for index in indices:
            skip(self._nets[index], self._sources[index], self._batches[index])


def _period(layers, step):
    """The number of batches after which all data layers are at their start again; None where that cannot be known.

    Args:
        layers: the LayerParameters of a net.
        step: the number of ranks to which the rows are dealt.
    """
    period = 1
    for layer in layers:
        if layer.bottom or layer.type in ("Input", "Parameter"):
            continue
        transform, data = layer.transform_param, layer.data_param
        if (
            layer.type != "Data"
            or data.backend != data.LMDB
            or data.rand_skip
            or transform.mirror
            or transform.crop_size
        ):
            return None
        try:
            with need("lmdb", "lmdb").open(data.source, readonly=True, lock=False) as environment:
                rows = environment.stat()["entries"]
        except UserError:  # there is no lmdb
            return None
        period = math.lcm(period, rows // math.gcd(rows, data.batch_size * step))
    return period
