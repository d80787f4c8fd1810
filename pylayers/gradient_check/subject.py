"""The net in which a layer's gradient is checked: the layer alone, with an input for each bottom."""

import contextlib
import random

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers.caffe_facts import FIXED_PARAMETERS
from pylayers.caffe_nets import build
from pylayers.caffe_nets.text import input_text

# Half a unit in the last place of float32, times four: a top is the end of a few rounded operations.
NOISE = 4 * 2.0**-24


@contextlib.contextmanager
def random_state_kept():
    """Puts NumPy's and Python's global generators back into their state after the block; Caffe's has no way back."""
    states = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])


class Subject:
    """A net with the layer under test.

    Attributes:
        net: the net.
        index: the layer's index in the net.
        tops: the names of the layer's tops.
        wanted: the indices of the bottoms that get a gradient.
        upstream: of each top, what its diff is before backward.
        loss_weight: the first top's diff; None where that is no loss.
        values: a dict from "bottom[0]", "blobs[0]" and so on to what that blob holds before each forward.
    """

    def __init__(self, layer, bottoms, wanted, seed, phase, propagate_down=()):
        """Builds the net.

        Args:
            layer: a LayerParameter.
            bottoms: an array for each bottom.
            wanted: the indices of the bottoms that get a gradient.
            seed: the seed of the layer's own random numbers.
            phase: caffe.TEST or caffe.TRAIN.
            propagate_down: as in the prototxt, one flag for each bottom, or none.
        """
        self.layer, self.seed, self.phase, self.wanted = layer, seed, phase, wanted
        self.tops = [f"t{index}" for index in range(max(1, len(layer.top)))]
        self._seed()
        self.net = build.load(self._net_parameter([np.shape(array) for array in bottoms], propagate_down), phase)
        self.index = list(self.net._layer_names).index("subject")
        self._blobs = {f"bottom[{index}]": self.net.blobs[f"b{index}"] for index in range(len(bottoms))}
        self.values = {f"bottom[{index}]": np.array(array, np.float32) for index, array in enumerate(bottoms)}
        for index, blob in enumerate(self.net.layers[self.index].blobs):
            self._blobs[f"blobs[{index}]"], self.values[f"blobs[{index}]"] = blob, blob.data.copy()
        self.upstream = [np.ones(self.net.blobs[top].data.shape) for top in self.tops]
        self.loss_weight = None

    def _net_parameter(self, shapes, propagate_down):
        names = [f"b{index}" for index in range(len(shapes))]
        inputs = [
            input_text(name, shape, index in self.wanted) for index, (name, shape) in enumerate(zip(names, shapes))
        ]
        param = text_format.Parse("".join(inputs), caffe_pb2.NetParameter())
        subject = param.layer.add()
        subject.CopyFrom(self.layer)
        subject.ClearField("include")
        subject.ClearField("exclude")
        subject.name = "subject"
        subject.bottom[:] = names
        subject.top[:] = self.tops
        subject.loss_weight[:] = [1] * len(self.tops)
        subject.propagate_down[:] = propagate_down
        for param_spec in subject.param if subject.type not in FIXED_PARAMETERS else ():
            param_spec.lr_mult = 1  # Caffe computes no gradient of a frozen parameter
        return param

    @property
    def shape(self):
        """The shape of the first bottom."""
        return self.values["bottom[0]"].shape

    @property
    def checked(self):
        """The names of the blobs that have a gradient."""
        return [f"bottom[{index}]" for index in self.wanted] + [name for name in self.values if name[:2] == "bl"]

    def draw_upstream(self, generator, loss_weight):
        """Chooses `upstream`.

        A first top of one element is a loss and gets `loss_weight`; the other tops are then by-products and get 0. All
        other tops get normal random numbers.

        Args:
            generator: a numpy.random.Generator.
            loss_weight: the diff of a top that is a loss.
        """
        shapes = [top.shape for top in self.forward()]
        if np.prod(shapes[0]) == 1:
            self.loss_weight = loss_weight
            self.upstream = [np.full(shapes[0], loss_weight), *(np.zeros(shape) for shape in shapes[1:])]
        else:
            self.upstream = [generator.normal(size=shape) for shape in shapes]

    def forward(self):
        """Runs the layer alone, from `values`; returns its tops, which the next forward overwrites.

        The layer may have changed its bottoms, in value or shape, or its parameters when it ran before.
        """
        for name, value in self.values.items():
            blob = self._blobs[name]
            if blob.data.shape != value.shape:
                blob.reshape(*value.shape)
            blob.data[...] = value
        self._seed()
        self.net._forward(self.index, self.index)
        return [self.net.blobs[top].data for top in self.tops]

    def _seed(self):
        """Seeds what a layer may draw random numbers from, so that it draws the same ones each time."""
        caffe.set_random_seed(self.seed)
        np.random.seed(self.seed)
        random.seed(self.seed)

    def objective(self):
        """Runs the layer; returns Σ v·top in float64, and the size of its rounding errors."""
        terms = [v * top.astype(np.float64) for v, top in zip(self.upstream, self.forward())]
        return sum(term.sum() for term in terms), NOISE * sum(np.abs(term).sum() for term in terms)

    def backward(self, prefill=0, flags=None):
        """Runs the layer forward and backward, its bottoms' diffs holding `prefill` before.

        Args:
            prefill: a number.
            flags: of a Python layer: the propagate_down that its backward is called with, if not Caffe's.

        Returns:
            The diffs between forward and backward, a dict by blob: HingeLoss, for one, keeps its margins there.
        """
        for name, blob in self._blobs.items():
            blob.diff[...] = prefill if name.startswith("bottom") else 0  # backward adds to a parameter's diff
        self.forward()
        between = {name: self.diff(name) for name in self._blobs}
        for top, v in zip(self.tops, self.upstream):
            self.net.blobs[top].diff[...] = v
        if flags is None:
            self.net._backward(self.index, self.index)
        else:
            bottoms = [blob for name, blob in self._blobs.items() if name.startswith("bottom")]
            self.net.layers[self.index].backward([self.net.blobs[top] for top in self.tops], flags, bottoms)
        return between

    def diff_with_flags(self, name, flags, prefill):
        """A bottom's diff before and after a backward with these propagate_down.

        In a net they are fixed. So a layer of Caffe's own is built again. Of a Python layer backward is called as Caffe
        calls it, since a user's setup, which may read files or print, is to run once.
        """
        if self.layer.type == "Python":
            return self.backward(prefill, flags)[name], self.diff(name)
        bottoms = [value for blob, value in self.values.items() if blob.startswith("bottom")]
        other = Subject(self.layer, bottoms, self.wanted, self.seed, self.phase, flags)
        return other.backward(prefill)[name], other.diff(name)

    def data(self, name):
        """What a blob holds: forward and backward may have changed it, and its shape."""
        return self._blobs[name].data

    def diff(self, name):
        """A copy of a blob's diff, in the shape of its values."""
        return self._blobs[name].diff.reshape(self.values[name].shape).copy()

    def gradient(self, name):
        """A copy of what backward writes to the diff of a blob."""
        self.backward()
        return self.diff(name)

    def moved(self, name, place, moves, find):
        """What `find` gives with some of a blob's values moved: a list, one for each of the `moves`.

        Args:
            name: the blob's name, such as "bottom[0]".
            place: the index of the values in it.
            moves: what to add to the values, one call of `find` for each.
            find: a function without arguments.

        Returns:
            A list of what `find` returned.
        """
        value = self.values[name]
        kept = value[place].copy()
        results = []
        try:
            for move in moves:
                value[place] = kept + move
                results.append(find())
        finally:
            value[place] = kept
        return results
