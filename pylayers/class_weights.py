"""`pylayers class-weights`: weights that make up for rare classes, from the labels that a net is trained on."""

import contextlib
import io
import json
import math
import operator
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf.message import DecodeError

from pylayers import output
from pylayers.inputs import quoted
from pylayers.output import UserError
from pylayers.params import Integer

# Labels in memory at a time, but for an image that is larger; the work on each is then no more than noise.
BATCH = 2**20
DIGITS = 6  # of the weights to paste: what a loss in float32 can tell apart, nearly
TOPS = ("data", "label")  # of Caffe's Data layer, and what may follow the colon after an LMDB


def median_frequency(labels, classes, ignore_label=None):
    """Class weights by median frequency balancing: w_c = median(freq) / freq(c).

    freq(c) is the number of pixels of class c, divided by the number of all pixels in those images that show class c;
    the median is over the classes that occur. A class of middling frequency gets 1, a rarer one more. Pixels with
    `ignore_label` count nowhere, neither above nor below the line.

    With one label an item, as in classification, each freq(c) would be 1. All items together are then taken for one
    image: freq(c) is the share of the labels that are c.

    A class that never occurs has no frequency. It gets the weight 0, with one warning for all of them: the list fits
    the net all the same, and no gradient is lost on these labels. In a net that meets such a class later, 0 means that
    it is never learnt there.

    Args:
        labels: an array, or what slices into one, such as an open HDF5 data set: its first axis counts the images, as
            in (N,), (N, H, W) or (N, 1, H, W). Or an iterable with one array an image; their sizes may differ. Or, as
            a string or path, a source as `open_source` takes it; it is read in pieces, with a progress bar where
            stderr is a terminal.
        classes: the number of classes C, which is that of the net's scores.
        ignore_label: the label of pixels that do not count; it may be one of the classes, whose weight is 0 then.

    Returns:
        A float64 array of C weights.

    Raises:
        TypeError: `classes` or `ignore_label` is not a whole number, or the labels are not numbers.
        ValueError: a label that is neither a whole number from 0 to C − 1 nor `ignore_label`; a single image without
            an axis that counts images; no label that counts.
        UserError: the source cannot be read, or a package for it is missing.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
    Convolutional Architecture" (ICCV 2015, arXiv 1411.4734), the paragraph on class balancing. SegNet uses it.

    Of two images of four pixels, class 0 is seen in both (5 of 8 pixels), 1 in the second (1 of 4), 2 in the first
    (2 of 4). The median of 5/8, 1/4 and 1/2 is 1/2:

    >>> labels = np.array([[[0, 0], [2, 2]], [[0, 0], [0, 1]]])
    >>> weights = median_frequency(labels, classes=3)
    >>> weights
    array([0.8, 2. , 1. ])

    In a caffe.NetSpec:

    >>> import caffe, pylayers
    >>> from pylayers.layers import python_loss
    >>> net = caffe.NetSpec()
    >>> net.scores = caffe.layers.Input(shape=dict(dim=[2, 3, 2, 2]))
    >>> net.label = caffe.layers.Input(shape=dict(dim=[2, 2, 2]))
    >>> net.loss = python_loss(
    ...     pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, class_weights=weights.tolist())
    >>> net.to_proto().layer[2].python_param.param_str
    '{"class_weights": [0.8, 2.0, 1.0]}'
    """
    counts = count(labels, classes, ignore_label)
    if counts.absent():
        warnings.warn(counts.absent_text(), stacklevel=2)
    return counts.weights()


def count(labels, classes, ignore_label=None):
    """Counts labels; arguments and errors as for `median_frequency`.

    Returns:
        `ClassCounts` with at least one label.
    """
    counts = ClassCounts(classes, ignore_label)
    if isinstance(labels, (str, os.PathLike)):
        source = open_source(labels)
        # Closed here, where an exception would keep the files open for as long as it is looked at.
        with _progress_bar(source.items) as advance, contextlib.closing(source.batches) as batches:
            for batch in batches:
                counts.add(*batch)
                advance(len(batch.labels))
    else:
        for batch in _batches(labels):
            counts.add(*batch)
    if not counts.pixels.any():
        where = labels if isinstance(labels, (str, os.PathLike)) else "the array"
        raise ValueError(f"{where} holds no labels" + ("" if ignore_label is None else f" but {ignore_label}, ignored"))
    return counts


class ClassCounts:
    """How often each class occurs, filled one batch of images after the other.

    Attributes:
        pixels: of each class, in all images.
        images: that show the class.
        area: the pixels of any class in those images.
        single: whether every item so far holds one label.
    """

    def __init__(self, classes, ignore_label=None):
        self.classes = operator.index(classes)
        if not 1 <= self.classes <= Integer.LIMIT:
            raise ValueError(f"classes must be a whole number from 1 to {Integer.LIMIT}, found {classes}")
        self.ignore_label = None if ignore_label is None else operator.index(ignore_label)
        self.pixels, self.images, self.area = np.zeros((3, self.classes), np.int64)
        self.single = True

    def add(self, labels, where="the array", first=0):
        """Counts a batch.

        Args:
            labels: an array, whose first axis counts the images.
            where: what holds the labels, for an error.
            first: the place of the batch in it.

        Raises:
            TypeError: the labels are not numbers.
            ValueError: one is not a whole number, or out of range.
        """
        counted = self._counted(labels, where, first)
        rows = len(labels)
        if labels.size == rows:  # one label an item: each item shows one class, and nothing else
            pixels = np.bincount(labels[counted].astype(np.intp), minlength=self.classes)
            self.pixels += pixels
            self.images += pixels
            self.area += pixels
            return
        self.single = False
        for image, kept in zip(labels.reshape(rows, -1), counted.reshape(rows, -1)):
            pixels = np.bincount(image[kept].astype(np.intp), minlength=self.classes)
            self.pixels += pixels
            self.images += pixels > 0
            self.area += (pixels > 0) * pixels.sum()

    def frequencies(self):
        """freq(c) of each class, NaN for one that never occurs."""
        area = np.full(self.classes, self.pixels.sum()) if self.single else self.area
        found = self.pixels > 0
        return np.divide(self.pixels, area, out=np.full(self.classes, np.nan), where=found)

    def weights(self):
        """median(freq) / freq(c), 0 for a class that never occurs."""
        frequencies = self.frequencies()
        return np.nan_to_num(np.nanmedian(frequencies) / frequencies, nan=0.0)

    def absent(self):
        """The classes that never occur, as a list; the ignored one is not missed."""
        return [int(index) for index in np.flatnonzero(self.pixels == 0) if index != self.ignore_label]

    def absent_text(self):
        """One line on the classes that never occur."""
        absent = self.absent()
        names = ", ".join(map(str, absent[:10])) + (f" and {len(absent) - 10} more" if len(absent) > 10 else "")
        if len(absent) == 1:
            return f"class {names} never occurs; its weight is 0"
        return f"classes {names} never occur; their weights are 0"

    def _counted(self, labels, where, first):
        """Which labels count, as an array of booleans."""
        if labels.dtype.kind not in "buif":
            raise TypeError(f"{where} holds {labels.dtype}, and no labels; those are whole numbers")
        counted = (labels >= 0) & (labels < self.classes)
        if labels.dtype.kind == "f":
            counted &= labels == np.floor(labels)
        if self.ignore_label is None:
            wrong = ~counted
        else:
            ignored = labels == self.ignore_label
            wrong = ~(counted | ignored)
            counted &= ~ignored
        if wrong.any():
            place = tuple(int(index) for index in np.unravel_index(np.argmax(wrong), labels.shape))
            raise ValueError(
                f"{where} holds {labels[place].item()} at {(place[0] + first, *place[1:])}; a label must be a whole "
                f"number from 0 to {self.classes - 1}"
                + ("" if self.ignore_label is None else f", or {self.ignore_label} (the ignored label)")
            )
        return counted


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
            ``list.txt:label``, the same of all files that HDF5Data's source lists, one a line, from the working folder;
            ``train_lmdb:label``, the label of each Datum of an LMDB, as convert_imageset writes it;
            ``train_lmdb:data``, the Datum itself as a label map: one channel of bytes or floats, or a grey PNG.

    Returns:
        `Source`; nothing of the labels has been read yet.

    Raises:
        UserError: there is no such source, or a package for it is missing. What is wrong further in shows in reading.
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


def run(options):
    """The command.

    Args:
        options: a namespace with `source`, `classes`, `ignore_label` and `json`.

    Returns:
        The exit status, 0.

    Raises:
        UserError: the source cannot be read, holds other than labels, or the result cannot be written.
    """
    output.need("rich")
    with output.whole_file(options.json) as json_file:
        try:
            counts = count(options.source, options.classes, options.ignore_label)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None
        if counts.absent():
            print(f"pylayers {options.command}: {counts.absent_text()}", file=sys.stderr)
        weights = counts.weights()
        _print(options.source, counts, weights)
        output.write_json(
            json_file,
            {
                "source": options.source,
                "classes": counts.classes,
                "ignore_label": counts.ignore_label,
                "class_weights": weights.tolist(),
                "frequencies": counts.frequencies().tolist(),
                "pixels": counts.pixels.tolist(),
                "images": counts.images.tolist(),
            },
        )
    return 0


def _print(source, counts, weights):
    rounded = [float(f"{weight:.{DIGITS}g}") for weight in weights]
    # With one label an item the pixels are the images.
    columns = [counts.pixels] if counts.single else [counts.pixels, counts.images]
    output.print_table(
        f"Median frequency weights of {source}",
        ("class", "labels", "weight") if counts.single else ("class", "pixels", "images", "weight"),
        [
            (str(index), *(str(column[index]) for column in columns), f"{weight:g}")
            for index, weight in enumerate(rounded)
        ],
        left=0,
    )
    options = {"class_weights": rounded}
    if counts.ignore_label is not None:
        options["ignore_label"] = counts.ignore_label
    print(f"param_str: '{json.dumps(options)}'")  # not by rich, which would break the line


@contextlib.contextmanager
def _progress_bar(total):
    """A bar on stderr where that is a terminal, and rich is there.

    Yields:
        The function that moves it on by a number of items.
    """
    try:
        console = output.need("rich.console").Console(file=sys.stderr)
        progress = output.need("rich.progress").Progress(
            console=console, disable=not console.is_terminal, transient=True
        )
    except UserError:  # the weights do not need it
        yield lambda items: None
        return
    with progress:
        task = progress.add_task("counting", total=total)
        yield lambda items: progress.advance(task, items)


def _batches(labels):
    """Batches of an array or of an iterable of images."""
    if hasattr(labels, "shape"):
        _check_axes(labels.shape, "the array")
        yield from _slices(labels, "the array")
    else:
        for index, image in enumerate(labels):
            yield Batch(np.asarray(image)[np.newaxis], "the array", index)


def _check_axes(shape, where):
    if not shape:
        raise ValueError(f"{where} holds a single number; labels have at least one axis")
    # As N images it would give other weights, and no error.
    if len(shape) == 2 and shape[1] > 1:
        raise ValueError(
            f"{where} of shape {tuple(shape)} may be one label map or many rows; give one map as "
            f"{(1, *shape)}, and many rows of labels as {(shape[0], 1, shape[1])}"
        )


def _slices(array, where):
    """Batches of an array-like: whole images, about `BATCH` labels."""
    rows = max(1, BATCH // max(1, math.prod(array.shape[1:])))
    chunks = getattr(array, "chunks", None)
    if isinstance(chunks, tuple):  # of HDF5, which reads, and unpacks, a chunk as a whole
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
    h5py = output.need("h5py", extra="demo")
    listed = ""
    if path.endswith(".txt"):
        # HDF5Data parts the names at white space too.
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
            raise UserError(f"cannot read {path}{listed}: {_why_unread(path, error)}") from None
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


def _why_unread(path, error):
    """Why HDF5 does not open a file; its own words are a paragraph on its C functions."""
    if isinstance(error, PermissionError):
        return os.strerror(error.errno)
    if os.path.isdir(path):
        return "it is a folder"
    return "it is no HDF5 file" if os.path.exists(path) else "there is no such file"


def _lmdb_source(path, part):
    if not os.path.isfile(os.path.join(path, "data.mdb")):
        kind = "; LevelDB is not read here" if os.path.exists(os.path.join(path, "CURRENT")) else ""
        raise UserError(f"{path} is no LMDB, which has a file data.mdb{kind}")
    if part not in TOPS:
        raise UserError(
            f"say where {path} has its labels: {path}:label for the label of each Datum, {path}:data for label maps"
        )
    lmdb = output.need("lmdb", extra="lmdb")

    @contextlib.contextmanager
    def opened():
        try:
            # Without a lock it changes nothing in the folder, and needs no right to.
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
        if len(labels) == 1000:  # small, for the bar: images may have to be read to come to their labels
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
    """The image of Pillow, or None."""
    image_module = output.need("PIL.Image", extra="demo")
    try:
        image = image_module.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError):  # Pillow's for a broken PNG
        return None
    return image
