"""Where `pylayers class-weights` reads labels from: arrays, NumPy files, HDF5 and LMDB, in pieces."""

import contextlib
import io
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf.message import DecodeError

from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError
from pylayers.runtime.optional import need, why_unread

# Labels read at a time, or one image where that has more; so many that the work for each batch does not show.
BATCH = 2**20
TOPS = ("data", "label")  # the tops of Caffe's Data layer; one of them follows the colon after an LMDB


class Batch(NamedTuple):
    """Some images of a source: the arguments of `ClassCounts.add`."""

    labels: np.ndarray
    where: str
    first: int


class Source(NamedTuple):
    """Labels to be read: the number of items, and an iterator of `Batch`."""

    items: int
    batches: Any


def open_source(name):
    """Opens labels that lie in files.

    Args:
        name: one of
            ``labels.npy``, an array, the first axis the images;
            ``labels.h5:label``, a data set of an HDF5 file, the first axis the images as for HDF5Data;
            ``list.txt:label``, that data set of all files in a list like HDF5Data's source, one a line, with paths from
            the working folder;
            ``train_lmdb:label``, the label of each Datum of an LMDB, as convert_imageset writes it;
            ``train_lmdb:data``, the Datum itself as a label map: one channel of bytes or floats, or a grey PNG.

    Returns:
        `Source`; no label has been read yet.

    Raises:
        UserError: there is no such source, or a package for it is missing. Wrong contents are found when they are read.
    """
    name = os.fspath(name)
    path, part = (name, "") if os.path.exists(name) or ":" not in name else name.rsplit(":", 1)
    if not os.path.exists(path):
        raise UserError(f"cannot read {path}: there is no such file or folder")
    if os.path.isdir(path):
        return _lmdb_source(path, part)
    if path.endswith(".npy"):
        if part:
            raise UserError(f"{path} holds one array; give it without :{part}")
        return _array_source(path)
    return _hdf5_source(path, part)


def batches_of(labels):
    """Batches of an array or of an iterable of images: an iterator of `Batch`."""
    if hasattr(labels, "shape"):
        _check_axes(labels.shape, "the array")
        yield from _slices(labels, "the array")
    else:
        for index, image in enumerate(labels):
            yield Batch(np.asarray(image)[np.newaxis], "the array", index)


def _check_axes(shape, where):
    if not shape:
        raise ValueError(f"{where} holds a single number; labels have at least one axis")
    # One label map, taken for N images, would give other weights and no error.
    if len(shape) == 2 and shape[1] > 1:
        raise ValueError(
            f"{where} of shape {tuple(shape)} may be one label map or many rows; give one map as "
            f"{(1, *shape)}, and many rows of labels as {(shape[0], 1, shape[1])}"
        )


def _slices(array, where):
    """Batches of an array-like: whole images, about `BATCH` labels."""
    rows = max(1, BATCH // max(1, math.prod(array.shape[1:])))
    chunks = getattr(array, "chunks", None)
    if isinstance(chunks, tuple):  # HDF5 reads, and unpacks, each chunk as a whole
        rows = math.ceil(rows / chunks[0]) * chunks[0]
    for first in range(0, array.shape[0], rows):
        yield Batch(np.asarray(array[first : first + rows]), where, first)


def _array_source(path):
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    _check_axes(array.shape, path)
    return Source(len(array), _slices(array, path))


def _hdf5_source(path, name):
    h5py = need("h5py", "demo")
    listed = ""
    if path.endswith(".txt"):
        # HDF5Data splits the list at white space too.
        paths = Path(path).read_text(encoding="utf-8", errors="surrogateescape").split()
        if not paths:
            raise UserError(f"{path} lists no HDF5 file")
        listed = f", which {path} lists"
    else:
        paths = [path]

    @contextlib.contextmanager
    def opened(path):
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"cannot read {path}{listed}: {why_unread(path, error)}") from None
        with file:
            found = file.get(name) if name else None
            if not isinstance(found, h5py.Dataset):
                found = [key for key, item in file.items() if isinstance(item, h5py.Dataset)]
                asked = f'has no data set "{name}"' if name else "may hold several data sets"
                raise UserError(f"{path} {asked}; name one, as in {path}:label; it has {quoted(found)}")
            if not found.shape:
                raise UserError(f'the data set "{name}" of {path} has no axis that counts images')
            yield found

    def batches():
        for path in paths:
            with opened(path) as labels:
                try:
                    yield from _slices(labels, f"{path}:{name}")
                except OSError as error:  # of HDF5: a broken chunk, a compression that it lacks
                    raise UserError(f"cannot read {path}: {error}") from None

    items = 0
    for each in paths:
        with opened(each) as labels:
            items += len(labels)
    return Source(items, batches())


def _lmdb_source(path, part):
    if not os.path.isfile(os.path.join(path, "data.mdb")):
        kind = "; LevelDB is not read here" if os.path.exists(os.path.join(path, "CURRENT")) else ""
        raise UserError(f"{path} is no LMDB, which has a file data.mdb{kind}")
    if part not in TOPS:
        raise UserError(
            f"say where {path} has its labels: {path}:label for the label of each Datum, {path}:data for label maps"
        )
    lmdb = need("lmdb", "lmdb")

    @contextlib.contextmanager
    def opened():
        try:
            # Without a lock LMDB writes nothing to the folder, and needs no right to.
            with lmdb.open(path, readonly=True, lock=False) as environment:
                size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
                if os.path.getsize(os.path.join(path, "data.mdb")) < size:  # to read on would end the process
                    raise UserError(f"cannot read {path}: data.mdb is cut off")
                yield environment
        except lmdb.Error as error:
            raise UserError(f"cannot read {path}: {error}") from None

    def batches():
        with opened() as environment, environment.begin() as transaction:
            yield from (_datum_labels if part == "label" else _datum_maps)(transaction.cursor(), f"{path}:{part}")

    with opened() as environment:
        return Source(environment.stat()["entries"], batches())


def _datums(cursor, where):
    """Triples of an item's index, its name for an error, and its Datum."""
    for index, (key, value) in enumerate(cursor):
        name = f"{where}: item {index}, key {key.decode('utf-8', 'backslashreplace')!r},"
        try:
            yield index, name, caffe_pb2.Datum.FromString(value)
        except DecodeError:
            raise UserError(f"{name} is no Datum") from None


def _datum_labels(cursor, where):
    labels = []
    for index, name, datum in _datums(cursor, where):
        if not datum.HasField("label"):
            raise UserError(f"{name} has no label")
        labels.append(datum.label)
        if len(labels) == 1000:  # few, so that the bar moves: each label is read with its image
            yield Batch(np.array(labels), where, index + 1 - len(labels))
            labels = []
    if labels:
        yield Batch(np.array(labels), where, index + 1 - len(labels))


def _datum_maps(cursor, where):
    for index, name, datum in _datums(cursor, where):
        yield Batch(_label_map(datum, name)[np.newaxis], where, index)


def _label_map(datum, name):
    """The labels of a Datum, (1, H, W)."""
    if datum.encoded:
        image = _decode(datum.data)
        # A palette's colours, and what JPEG makes of a number, are no labels.
        if image is None or image.format != "PNG" or image.mode != "L":
            kind = f"{image.format} of mode {image.mode}" if image else "something encoded"
            raise UserError(f"{name} holds {kind}; of encoded label maps only grey PNG of 8 bits is read")
        return np.asarray(image)[np.newaxis]
    if datum.channels != 1:
        raise UserError(
            f"{name} has {datum.channels} channels, which a label map has not; "
            "for the label of each Datum write :label in place of :data"
        )
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    shape = (1, datum.height, datum.width)
    if values.size != math.prod(shape):
        raise UserError(f"{name} has {values.size} values and says that it has 1×{datum.height}×{datum.width}")
    return values.reshape(shape)


def _decode(data):
    """Pillow's image, or None where Pillow cannot read it."""
    image_module = need("PIL.Image", "demo")
    try:
        image = image_module.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError):  # what Pillow raises for a broken PNG
        return None
    return image
