"""The demo's data sets, made from scikit-learn's bundled digits and photographs, in Caffe's HDF5 format."""

import io
import json
from pathlib import Path

import caffe
import h5py
import numpy as np
import segmentation_data
from caffe.proto import caffe_pb2
from google.protobuf import text_format
from sklearn.datasets import load_digits, load_sample_images

from pylayers.tools.report import named_errors, whole_file

RARE_DIGITS = (7, 8, 9)
RARE_SHARE = 0.08  # the share of the rare digits' training images that is kept
PATCH = 16
SEED = 20261122


def write_all(folder, nets):
    """Writes the HDF5 files and lists that the nets read, and InfogainLoss's matrices.

    Args:
        folder: the folder to write to; it is made where it is missing.
        nets: the folder of the demo's prototxt files, which hold the class weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    train, test = _digits(random)
    _write(folder / "digits_train", *train)
    _write(folder / "digits_test", *test)
    _write(folder / "photographs_train", *_patches(random))
    random = np.random.default_rng(SEED)  # anew, so that these images do not depend on how many the others draw
    _write(folder / "segmentation_train", *segmentation_data.draw(random, 400))
    _write(folder / "segmentation_test", *segmentation_data.draw(random, 100))
    _write_matrix(folder / "class_weights.binaryproto", nets / "digits_weighted.prototxt")
    _write_matrix(folder / "segmentation_weights.binaryproto", nets / "segmentation.prototxt")


def class_weights(prototxt):
    """The class weights in the param_str of a net's Python loss, so that they are written in one place only."""
    net = text_format.Parse(Path(prototxt).read_text(), caffe_pb2.NetParameter())
    (layer,) = (layer for layer in net.layer if layer.type == "Python")
    return json.loads(layer.python_param.param_str)["class_weights"]


def _digits(random):
    """Images (n, 1, 8, 8) from 0 to 1, and labels: two thirds to train, with few rare digits, and a third to test."""
    images, label = load_digits(return_X_y=True)
    order = random.permutation(len(label))
    images, label = (images[order] / 16).reshape(-1, 1, 8, 8), label[order]
    third = len(label) // 3
    test, train = (images[:third], label[:third]), (images[third:], label[third:])
    keep = ~np.isin(train[1], RARE_DIGITS) | (random.random(len(train[1])) < RARE_SHARE)
    return (train[0][keep], train[1][keep]), test


def _patches(random, count=2000):
    """Colour patches (n, 3, 16, 16) of two photographs, from 0 to 1, and their grey level (n, 1, 16, 16)."""
    photographs = np.stack(load_sample_images().images).transpose(0, 3, 1, 2) / 255
    _, _, height, width = photographs.shape
    rows, columns = random.integers(0, height - PATCH, count), random.integers(0, width - PATCH, count)
    patches = np.stack(
        [
            photographs[index % len(photographs), :, row : row + PATCH, column : column + PATCH]
            for index, (row, column) in enumerate(zip(rows, columns))
        ]
    )
    grey = np.tensordot(patches, [0.299, 0.587, 0.114], axes=(1, 0))[:, np.newaxis]
    return patches, grey


def _write(stem, data, label):
    made = io.BytesIO()  # and not on the disk: HDF5 does not tell in one line that it is full
    with h5py.File(made, "w") as file:
        file["data"] = data.astype(np.float32)
        file["label"] = label.astype(np.float32)
    write_whole(f"{stem}.h5", made.getvalue())
    write_whole(f"{stem}.txt", f"{stem}.h5\n".encode())


def _write_matrix(path, net):
    """InfogainLoss's matrix, which has the class weights of a net's Python loss on its diagonal."""
    matrix = np.diag(class_weights(net))[np.newaxis, np.newaxis]
    write_whole(path, caffe.io.array_to_blobproto(matrix).SerializeToString())


def write_whole(path, content):
    """Writes bytes to a file, all of them or none; UserError says why not."""
    with whole_file(path) as unfinished, named_errors(unfinished):
        unfinished.write_bytes(content)
