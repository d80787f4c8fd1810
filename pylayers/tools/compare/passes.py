"""Two nets run forward and backward on the same data, with the same parameters, from the same seeds."""

import collections
import random
import zlib
from typing import NamedTuple

import caffe
import numpy as np

from pylayers.caffe_facts import constant_bottoms, draws_at_random, loss_weights
from pylayers.caffe_nets import build, read
from pylayers.caffe_nets.labels import kits_class
from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError
from pylayers.tools import device
from pylayers.tools.compare import values

# Filled into each gradient before backward: it stays where no layer writes. No gradient is that large.
_UNTOUCHED = np.finfo(np.float32).min


class Pass(NamedTuple):
    """One net after forward and backward: dicts to arrays.

    Attributes:
        losses: from the loss's top to its value.
        gradients: from a blob that comes into the net from outside to its gradient.
        parameters: from a layer to the gradients of its parameters, a list.
    """

    losses: dict
    gradients: dict
    parameters: dict


class Both(NamedTuple):
    """Two nets that have run.

    Attributes:
        nets: the two caffe.Net.
        results: the `Pass` of each.
        data: what came into both nets from outside, a dict from blob to array.
        read: the blobs among these that A's own layers read or drew.
        constants: the blobs from outside that one of the nets takes as labels or weights alone.
    """

    nets: list
    results: list
    data: dict
    read: list
    constants: set


def one_pass(pair, settings, factor):
    """Loads both nets with their loss weights times `factor` and runs them once.

    Where both nets read or draw their own data, B gets what A has read.

    Args:
        pair: two NetParameters.
        settings: `pylayers.tools.compare.Settings`.
        factor: what each loss weight is multiplied by.

    Returns:
        `Both`.

    Raises:
        UserError: the nets do not match each other or the data.
    """
    device.use(settings.device)
    unweighted = read.unweighted_losses(pair[0]) & read.unweighted_losses(pair[1])
    loaded = []
    for param in pair:
        caffe.set_random_seed(settings.seed)
        loaded.append(build.load(read.with_loss_weight(param, factor, unweighted), read.PHASES[settings.phase]))
    _check_match(pair, loaded)
    shared = _copy_params(*loaded)
    given = values.of_inputs(pair, loaded, settings)
    blobs = [name for name in sources(pair[0]) if name in sources(pair[1])]
    losses = [*loss_tops(pair[0]), *sorted(unweighted)]
    data, results = given, []
    for net in loaded:
        data = forward(net, data, settings.seed)
        results.append(_backward(net, losses, blobs, shared))
    constant = {name for param in pair for name in _constants(param)}.intersection(blobs)
    return Both(loaded, results, data, [name for name in blobs if name not in given], constant)


def loss_tops(param):
    """The tops of a net that have a loss weight."""
    return [top for layer in param.layer for top in loss_weights(layer)]


def sources(param):
    """The blobs that come into a net from outside: the tops of the layers without bottoms."""
    return [*param.input, *(top for layer in param.layer if not layer.bottom for top in layer.top)]


def _constants(param):
    """The blobs that only losses take, and as labels or weights, which have no gradient."""
    uses = {}
    for layer in param.layer:
        kind, known = kits_class(layer), constant_bottoms(layer, len(layer.bottom))
        names = kind.bottom_names() if kind else ()
        for index, blob in enumerate(layer.bottom):
            uses.setdefault(blob, []).append(names[index] in kind.CONSTANTS if kind else index in known)
    return {blob for blob, constant in uses.items() if all(constant)}


def random_layers(param, phase):
    """The layers of a net that draw at random and lead to a loss, a list of LayerParameters."""
    return [layer for layer in read.lead_to_loss(param.layer) if layer.bottom and draws_at_random(layer, phase)]


def first_unsteady(both, settings):
    """Finds a layer that gives other values in a second forward, on the same data and from the same seed.

    What is within the tolerance counts as the same: on a GPU, sums may come in any order.

    Returns:
        The side, 0 for A and 1 for B, and the layer's name; None where both nets repeat themselves.
    """
    for side, net in enumerate(both.nets):
        traces = []
        for _ in range(2):
            traces.append([])
            forward(net, both.data, settings.seed, traces[-1])
        for (name, tops), (_, again) in zip(*traces):
            if not all(_close(a, b, settings.tolerance) for a, b in zip(tops, again)):
                return side, name
    return None


def _close(a, b, tolerance):
    largest = np.max(np.abs(a), initial=0, where=np.isfinite(a))
    return np.allclose(a, b, rtol=0, atol=tolerance * largest, equal_nan=True)


def forward(net, data, seed, trace=None):
    """Runs a net forward.

    Before each layer the random generators get a seed that depends on the layer's type, and on how many of that type
    came before. So the first Dropout of A draws what the first Dropout of B draws, whatever else draws in either net.

    Args:
        net: a caffe.Net.
        data: a dict from blob to the array that it is given once the layer that has no bottoms has made it.
        seed: a whole number.
        trace: a list that gets a pair for each layer, its name and copies of its tops' data.

    Returns:
        A dict from blob to array, of all that came into the net from outside.
    """
    found, counts, blobs = {}, collections.Counter(), list(net._blob_names)
    for index, layer in enumerate(net.layers):
        _seed((seed + zlib.crc32(f"{layer.type} {counts[layer.type]}".encode())) % 2**31)
        counts[layer.type] += 1
        net._forward(index, index)
        tops = [blobs[number] for number in net._top_ids(index)]
        if not len(net._bottom_ids(index)):
            for name in tops:
                if name in data:
                    net.blobs[name].reshape(*np.shape(data[name]))
                    net.blobs[name].data[...] = data[name]
                found[name] = net.blobs[name].data.copy()
        if trace is not None:
            trace.append((net._layer_names[index], [net.blobs[name].data.copy() for name in tops]))
    return found


def _seed(seed):
    caffe.set_random_seed(seed)
    np.random.seed(seed)  # for Python layers
    random.seed(seed)


def _backward(net, losses, blobs, shared):
    found = {name: net.blobs[name].data.copy() for name in losses}
    for name in blobs:
        net.blobs[name].diff[...] = _UNTOUCHED
    build.backward(net)
    gradients = {name: _gradient(net.blobs[name]) for name in blobs}
    return Pass(found, gradients, {name: [blob.diff.copy() for blob in net.params[name]] for name in shared})


def _gradient(blob):
    """A blob's gradient; one that no layer wrote is 0."""
    diff = blob.diff.copy()
    return np.zeros_like(diff) if (diff == _UNTOUCHED).all() else diff


def _check_match(pair, loaded):
    a, b = (set(loss_tops(param)) for param in pair)
    if a != b:
        raise UserError(f"the nets' losses do not match: A has {quoted(a)}, B has {quoted(b)}")
    inputs, made = [set(net.inputs) for net in loaded], [set(sources(param)) for param in pair]
    # What is an input of one net may be read or drawn by the other.
    if inputs[0] - made[1] or inputs[1] - made[0]:
        raise UserError(f"the nets' inputs do not match: A has {quoted(inputs[0])}, B has {quoted(inputs[1])}")
    for blob in sorted(made[0] & made[1]):
        a, b = (tuple(net.blobs[blob].shape) for net in loaded)
        if a != b:
            raise UserError(f'the blob "{blob}" has shape {a} in A and {b} in B; it must be the same in both')


def _copy_params(source, target):
    """Copies the parameters of layers that both nets have with the same shapes; returns these layers' names."""
    shared = []
    for name in source.params:
        blobs = [list(net.params[name]) if name in net.params else [] for net in (source, target)]
        if [tuple(blob.shape) for blob in blobs[0]] == [tuple(blob.shape) for blob in blobs[1]]:
            shared.append(name)
            for from_blob, to_blob in zip(*blobs):
                to_blob.data[...] = from_blob.data
    return shared


def reference(param, net, factor):
    """The losses that have a formula in float64, and the gradients of the blobs that only they take.

    Args:
        param: the NetParameter of the net.
        net: the net itself, after a forward pass: the values of the bottoms are read from it.
        factor: what its loss weights have been multiplied by.

    Returns:
        A `Pass` without parameters.
    """
    exact = Pass({}, {}, {})
    layers = read.lead_to_loss(param.layer)
    built = dict(zip(net._layer_names, net.layers))
    for layer in layers:
        weight = loss_weights(layer).get(layer.top[0]) if layer.top else None
        formula = getattr(built[layer.name], "reference", None)
        found = formula and weight and formula([net.blobs[name].data for name in layer.bottom])
        if found:
            exact.losses[layer.top[0]], gradients = found
            for name, gradient in zip(layer.bottom, gradients):
                if gradient is not None:
                    exact.gradients[name] = exact.gradients.get(name, 0) + factor * weight * gradient
    # Where another layer takes a blob too, the blob's gradient has another part, which is not known here.
    for layer in layers:
        if not layer.top or layer.top[0] not in exact.losses:
            for name in layer.bottom:
                exact.gradients.pop(name, None)
    return exact


def references(pair, both, factor):
    """The references of both nets in one `Pass`; where both nets have one, that of A."""
    a, b = (reference(param, net, factor) for param, net in zip(pair, both.nets))
    return Pass({**b.losses, **a.losses}, {**b.gradients, **a.gradients}, {})
