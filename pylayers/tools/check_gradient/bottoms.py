"""The bottoms of a layer as the options give them: shapes, data sets, ranges, probabilities."""

import re

import numpy as np

from pylayers.caffe_facts import Probabilities, Range
from pylayers.caffe_nets.hdf5 import read_arrays
from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError
from pylayers.gradient_check.inputs import MARGIN, bottom_names, draw_from


def of_options(layer, options):
    """A shape or an array for each bottom, by --bottom and --data.

    Raises:
        UserError: a bottom has neither, or both and they differ; or a data set is no bottom's.
    """
    found = dict(enumerate(options.bottom or ()))
    if options.data:
        for index, value in _data_sets(options.data, bottom_names(layer)).items():
            if found.get(index, value.shape) != value.shape:
                shapes = f"{value.shape} in {options.data} and {found[index]} by --bottom"
                raise UserError(f"bottom {index} has two shapes: {shapes}")
            found[index] = value
    if not found:
        raise UserError("give the shape of each bottom, such as --bottom 4,10 --bottom 4")
    missing = sorted(set(range(max(found))) - found.keys())
    if missing:
        raise UserError(f"bottom {missing[0]} has neither a data set in {options.data} nor a shape by --bottom")
    return [found[index] for index in sorted(found)]


def _data_sets(path, names):
    """A dict from a bottom's index to its values; a data set has the bottom's name, or its index."""
    found, values = {}, read_arrays(path)
    for name, value in values.items():
        if name in names:
            found[names.index(name)] = value
        elif re.fullmatch(r"\d+", name):
            found[int(name)] = value
        else:
            known = f" or {quoted(names)}" if names else ""
            raise UserError(f'"{name}" in {path} is no bottom: call the data sets "0", "1" and so on{known}')
    return found


def fill(bottoms, options):
    """The bottoms, with those that --range and --softmax name as arrays.

    Raises:
        UserError: there is no such bottom or axis, two options fill it, or a step leads out of its range.
    """
    bottoms, random = list(bottoms), np.random.default_rng(options.seed)
    asked = [(index, Range(low, high)) for index, low, high in options.range]
    asked += [(index, Probabilities(axis)) for index, axis in options.softmax]
    filled = {index for index, _ in options.labels}
    for index, domain in asked:
        if index >= len(bottoms):
            raise UserError(f"there is no bottom {index}; the layer has {len(bottoms)}, counted from 0")
        if index in filled:
            raise UserError(f"bottom {index} is filled by two of --labels, --range and --softmax")
        filled.add(index)
        shape = np.shape(bottoms[index]) if isinstance(bottoms[index], np.ndarray) else bottoms[index]
        _check(index, domain, shape, options.step)
        bottoms[index] = draw_from(domain, shape, random)
    return bottoms


def _check(index, domain, shape, step):
    if isinstance(domain, Probabilities) and not -len(shape) <= domain.axis < len(shape):
        raise UserError(f"bottom {index} has no axis {domain.axis}; its shape is {shape}")
    if isinstance(domain, Range):
        low, high = domain
        room = MARGIN * (high - low) / 2 / max(abs(low), abs(high))
        if step > room:
            raise UserError(
                f"a step leads out of the range {low:g} to {high:g} of bottom {index}: give --step {room:.1g}"
            )
