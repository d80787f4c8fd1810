"""Class weights that make up for rare classes, from the labels that a net is trained on."""

from __future__ import annotations

import contextlib
import operator
import os
import warnings
from collections.abc import Iterable

import numpy as np

from pylayers.class_weights.sources import batches_of, open_source
from pylayers.losses.labels import expected
from pylayers.params import Integer
from pylayers.runtime.progress import progress_bar

USUAL_IGNORE_LABELS = (255, -1)


def median_frequency(
    labels: str | os.PathLike | np.ndarray | Iterable, classes: int, ignore_label: int | None = None
) -> np.ndarray:
    """Class weights by median frequency balancing: w_c = median(freq) / freq(c).

    freq(c) is the number of pixels of class c, divided by the number of all pixels in those images that show class c;
    the median is over the classes that occur. A class of middling frequency gets 1, a rarer one more. Pixels with
    `ignore_label` are left out of both numbers.

    Where each item has one label, as in classification, each freq(c) would be 1. All items together are then taken for
    one image: freq(c) is the share of the labels that are c.

    A class that never occurs has no frequency. It gets the weight 0, so that the list still fits the net; on these
    labels that loses no gradient. A net that meets such a class later never learns it. One warning names all of them.

    Args:
        labels: an array, or something that is sliced like one, such as an open HDF5 data set: its first axis counts the
            images, as in (N,), (N, H, W) or (N, 1, H, W). Or an iterable with one array an image; their sizes may
            differ. Or the name of a source, a string or path, as `class_weights.sources.open_source` takes it. A source
            is read in pieces, with a progress bar where stderr is a terminal.
        classes: the number of classes C, which is that of the net's scores.
        ignore_label: the label of pixels that do not count. It may be one of the classes, whose weight is then 0.

    Returns:
        A float64 array of C weights.

    Raises:
        TypeError: `classes` or `ignore_label` is not a whole number, or the labels are not numbers.
        ValueError: a label that is neither a whole number from 0 to C − 1 nor `ignore_label`; a single image without
            an axis that counts images; no label that counts.
        UserError: the source cannot be read, or a package for it is missing.

    Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common Multi-Scale
    Convolutional Architecture" (ICCV 2015, arXiv 1411.4734), the paragraph on class balancing. SegNet uses it.

    In these two images of four pixels, class 0 occurs in both (5 of 8 pixels), class 1 in the second (1 of 4 pixels),
    and class 2 in the first (2 of 4). The median of 5/8, 1/4 and 1/2 is 1/2:

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
    ...     pylayers.WeightedSoftmaxLossLayer, net.scores, net.label, class_weights=weights, normalization="WEIGHT_SUM")
    >>> net.to_proto().layer[2].python_param.param_str
    '{"class_weights": [0.8, 2.0, 1.0], "normalization": "WEIGHT_SUM"}'
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
        # Closed here: as long as an exception is kept, its traceback would keep the files open.
        with progress_bar("counting", source.items) as advance, contextlib.closing(source.batches) as batches:
            for batch in batches:
                counts.add(*batch)
                advance(len(batch.labels))
    else:
        for batch in batches_of(labels):
            counts.add(*batch)
    if not counts.pixels.any():
        where = labels if isinstance(labels, (str, os.PathLike)) else "the array"
        raise ValueError(f"{where} holds no labels" + ("" if ignore_label is None else f" but {ignore_label}, ignored"))
    return counts


class ClassCounts:
    """How often each class occurs, filled one batch of images after the other.

    Attributes:
        pixels: the number of pixels of each class, in all images.
        images: for each class, the number of images that show it.
        area: for each class, the number of pixels of any class in those images.
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
            where: the name of what holds the labels, for error messages.
            first: the index in it of the batch's first image.

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

    def mean_weight(self):
        """The mean of the weights of all labels: what "VALID" multiplies the loss by that "WEIGHT_SUM" gives."""
        return float(self.pixels @ self.weights() / self.pixels.sum())

    def absent(self):
        """A list of the classes that never occur, without `ignore_label`."""
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
                f"{where} holds {labels[place].item()} at {(place[0] + first, *place[1:])}; "
                + expected(self.classes, self.ignore_label)
                + self._ignore_hint(labels[place].item())
            )
        return counted

    def _ignore_hint(self, found):
        """A question for a label that usually marks pixels that do not count, where none is ignored."""
        if self.ignore_label is not None or found not in USUAL_IGNORE_LABELS:
            return ""
        return f"; if {found:g} marks what does not count: --ignore-label {found:g} (in Python: ignore_label={found:g})"
