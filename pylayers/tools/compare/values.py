"""What the inputs of two nets are filled with: random numbers, labels where a net takes labels, or an HDF5 file."""

import numpy as np

from pylayers.caffe_nets.hdf5 import read_arrays
from pylayers.caffe_nets.labels import Label, draw, find_labels, kits_class, merge
from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError


def of_inputs(pair, loaded, settings):
    """The values of the nets' input blobs.

    They are what the HDF5 file of --data holds. Without one they are random: whole numbers for labels, positive numbers
    for weights, and standard normal numbers for all else.

    Args:
        pair: two NetParameters.
        loaded: the nets, whose inputs have the same names and shapes.
        settings: `pylayers.tools.compare.Settings`.

    Returns:
        A dict from blob to array.

    Raises:
        UserError: --labels or the HDF5 file do not fit the nets.
    """
    shapes = {name: tuple(loaded[0].blobs[name].shape) for name in loaded[0].inputs}
    given = {blob: Label(classes, None) for blob, classes in settings.labels}
    for blob in given:
        if blob not in shapes:
            raise UserError(f'--labels names the blob "{blob}", which is no input; the inputs are {quoted(shapes)}')
    if settings.data is not None:
        return _from_hdf5(settings.data, shapes)
    found = {**merge(*(find_labels(param.layer, net) for param, net in zip(pair, loaded))), **given}
    random = np.random.default_rng(settings.seed)
    weights = {blob for param in pair for layer in param.layer for blob in _weights(layer)}
    drawn = {}
    for name, shape in shapes.items():
        if name in found:
            drawn[name] = draw(random, shape, found[name])
        else:
            drawn[name] = random.standard_normal(shape)
            if name in weights:
                drawn[name] = np.abs(drawn[name])
    return drawn


def _weights(layer):
    """The bottoms of one of the kit's layers that hold weights."""
    kind = kits_class(layer)
    names = kind.bottom_names() if kind else ()
    return [blob for blob, name in zip(layer.bottom, names) if name.endswith("weight")]


def _from_hdf5(path, shapes):
    values = read_arrays(path)
    if values.keys() != shapes.keys():
        raise UserError(f"{path} holds the data sets {quoted(values)}; the nets' inputs are {quoted(shapes)}")
    for name, value in values.items():
        if value.shape != shapes[name]:
            raise UserError(f'"{name}" in {path} has shape {value.shape}; the nets\' input has {shapes[name]}')
    return values
