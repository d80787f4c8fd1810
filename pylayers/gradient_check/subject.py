"""The net in which a layer's gradient is checked: the layer alone, with an input for each bottom."""

import importlib

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_nets import build
from pylayers.caffe_nets.text import input_text
from pylayers.errors import UserError

# Half a unit in the last place of float32, times four, since a top comes from a few rounded operations.
_NOISE = 4 * 2.0**-24


def layer_class(module, name):
    """The class of a Python layer.

    Raises:
        UserError: the module cannot be imported, or has no such class.
    """
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"cannot import {module}: {error}") from None
    if not hasattr(found, name):
        raise UserError(f"the module {module} has no {name}")
    return getattr(found, name)


class Subject:
    """A net with the layer under test.

    Attributes:
        net: the net.
        index: the layer's index in the net.
        tops: the names of the layer's tops.
        upstream: for each top, what its diff is set to before backward.
    """

    def __init__(self, layer, values, wanted, seed, phase, propagate_down=()):
        """Builds the net.

        Args:
            layer: a LayerParameter.
            values: an array for each bottom.
            wanted: the indices of the bottoms that get a gradient.
            seed: the seed of the layer's own random numbers.
            phase: caffe.TEST or caffe.TRAIN.
            propagate_down: as in the prototxt, one flag for each bottom, or none.
        """
        names = [f"b{index}" for index in range(len(values))]
        inputs = [
            input_text(name, array.shape, index in wanted) for index, (name, array) in enumerate(zip(names, values))
        ]
        param = text_format.Parse("".join(inputs), caffe_pb2.NetParameter())
        subject = param.layer.add()
        subject.CopyFrom(layer)
        self.tops = [f"t{index}" for index in range(max(1, len(layer.top)))]
        subject.ClearField("include")
        subject.ClearField("exclude")
        subject.name = "subject"
        subject.bottom[:] = names
        subject.top[:] = self.tops
        subject.loss_weight[:] = [1] * len(self.tops)
        subject.propagate_down[:] = propagate_down
        for param_spec in subject.param:
            param_spec.lr_mult = 1  # Caffe computes no gradient of a frozen parameter
        caffe.set_random_seed(seed)
        self.net = build.load(param, phase)
        self.seed, self._bottoms = seed, names
        self.index = list(self.net._layer_names).index("subject")
        for index, array in enumerate(values):
            self.bottom(index).data[...] = array
        self.upstream = [np.ones(self.net.blobs[top].data.shape) for top in self.tops]

    def bottom(self, index):
        """The blob of a bottom."""
        return self.net.blobs[f"b{index}"]

    def params(self):
        """The layer's parameter blobs."""
        return list(self.net.layers[self.index].blobs)

    def draw_upstream(self, random, loss_weight):
        """Chooses `upstream`.

        A first top of one element is a loss and gets `loss_weight`; the other tops are then by-products and get 0. All
        other tops get normal random numbers.

        Args:
            random: a numpy.random.Generator.
            loss_weight: the diff of a top that is a loss.
        """
        self.forward()
        shapes = [self.net.blobs[top].data.shape for top in self.tops]
        if np.prod(shapes[0]) == 1:
            self.upstream = [np.full(shapes[0], loss_weight), *(np.zeros(shape) for shape in shapes[1:])]
        else:
            self.upstream = [random.normal(size=shape) for shape in shapes]

    def forward(self):
        """Runs the layer alone."""
        caffe.set_random_seed(self.seed)  # a layer that draws random numbers draws the same ones each time
        self.net._forward(self.index, self.index)

    def objective(self):
        """Runs the layer; returns Σ v·top in float64, and the size of its rounding errors."""
        self.forward()
        terms = [v * self.net.blobs[top].data.astype(np.float64) for v, top in zip(self.upstream, self.tops)]
        return sum(term.sum() for term in terms), _NOISE * sum(np.abs(term).sum() for term in terms)

    def backward(self, prefill):
        """Fills the bottoms' diffs with `prefill`, and runs the layer forward and backward.

        Returns:
            A dict with the bottoms' diffs between forward and backward. A layer may write there in forward: HingeLoss
            keeps its margins in the diff.
        """
        bottoms = {name: self.net.blobs[name] for name in self._bottoms}
        for blob in bottoms.values():
            blob.diff[...] = prefill
        self.forward()
        between = {name: blob.diff.copy() for name, blob in bottoms.items()}
        for top, v in zip(self.tops, self.upstream):
            self.net.blobs[top].diff[...] = v
        self.net._backward(self.index, self.index)
        return between

    def gradient(self, blob):
        """A copy of what backward writes to the diff of one of the blobs."""
        blob.diff[...] = 0  # backward adds to a parameter's diff
        self.backward(prefill=0)
        return blob.diff.copy()

    def moved(self, blob, place, moves, find):
        """Calls `find` with some of a blob's values moved, and restores the values, whatever happens.

        Args:
            blob: the blob.
            place: the index of the values in its data.
            moves: what to add to the values, one call of `find` for each.
            find: a function without arguments.

        Returns:
            A list of what `find` returned.
        """
        kept = blob.data[place].copy()
        results = []
        try:
            for move in moves:
                blob.data[place] = kept + move
                results.append(find())
        finally:
            blob.data[place] = kept
        return results
