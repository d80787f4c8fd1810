"""Data layers: the files that they read."""

import os
from pathlib import Path

from pylayers.tools.doctor import nearby
from pylayers.tools.doctor.finding import rule

TOPIC = "Data"
_SOURCES = {
    "Data": "data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "WindowData": "window_data_param",
    "InfogainLoss": "infogain_loss_param",
}


@rule(TOPIC)
def data_source(net):
    """What: a file or database that a layer reads, and that is not there, or is of another kind.
    Why: Caffe opens it from the folder that it is started in. HDF5Data reads a text file that lists HDF5 files; all but
    the first of these are opened in the training, and end it. A database is LEVELDB where the net does not say LMDB.
    Write: the path from the folder that you call caffe in; or what the finding gives.
    """
    for layer in net.layers:
        block = _SOURCES.get(layer.param.type)
        source = getattr(layer.param, block).source if block else ""
        if source and not os.path.exists(source):
            yield _missing(net, layer, (block, "source"), "source", source)
        elif source and layer.param.type == "HDF5Data":
            yield from _hdf5(net, layer, (block, "source"), source)
        elif source and layer.param.type == "Data":
            is_lmdb, database = os.path.exists(os.path.join(source, "data.mdb")), layer.param.data_param
            if is_lmdb and database.backend == database.LEVELDB:
                found = f"{source} is LMDB, and is opened as LEVELDB, Caffe's default: Caffe ends with that"
                yield net.error(layer, (block,), found, "backend: LMDB in data_param")
        mean = layer.param.transform_param.mean_file
        if mean and not os.path.exists(mean):
            yield _missing(net, layer, ("transform_param", "mean_file"), "mean_file", mean)


def _missing(net, layer, path, field, name):
    near = nearby.find(name, net.path, *filter(None, [net.solver]))
    found = f"there is no {name} here, in {os.getcwd()}, from where Caffe looks for it"
    return net.error(layer, path, found, f'{field}: "{near or "a path that is there, from here"}"')


def _hdf5(net, layer, path, source):
    """HDF5Data's source, and the files that it lists."""
    try:
        start = Path(source).read_bytes()[: 2**20]
    except OSError:  # a folder; Caffe says so
        return
    if start.startswith(b"\x89HDF"):
        found = f"{source} is an HDF5 file, and HDF5Data reads a text file that lists HDF5 files"
        write = f'source: "{Path(source).with_suffix(".txt").name}", a text file with the line {source}'
        yield net.error(layer, path, found, write)
        return
    for number, line in enumerate(start.decode(errors="replace").split(), 1):
        if not os.path.exists(line):
            found = f"{source} lists {line}, number {number}, which is not here, in {os.getcwd()}"
            near = nearby.find(line, source, net.path)
            yield net.error(layer, path, found, near or "paths that are there, from here")
            return
