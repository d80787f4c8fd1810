"""How good predictions are: the confusion matrix, and what is read from it."""

import numpy as np


def confusion(label, found, classes):
    """How many labels of each class were found to be of each class: rows are the labels, columns what was found.

    Args:
        label: an array of labels. Those that are no class, such as 255, do not count.
        found: an array of as many predicted classes.
        classes: the number of classes C.

    Returns:
        A matrix (C, C) of whole numbers.
    """
    label, found = np.ravel(label), np.ravel(found)
    counted = label < classes
    pairs = label[counted].astype(int) * classes + found[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix):
    """The share of the labels that are found."""
    return float(np.trace(matrix) / matrix.sum())


def recall(matrix):
    """For each class, the share of its labels that are found."""
    return np.diag(matrix) / matrix.sum(axis=1)


def iou(matrix):
    """For each class, intersection over union: the labels found, by those that are of the class or are taken for it."""
    return np.diag(matrix) / (matrix.sum(axis=0) + matrix.sum(axis=1) - np.diag(matrix))
