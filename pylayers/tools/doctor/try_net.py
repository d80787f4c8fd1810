"""What `pylayers doctor` does with a net that could be built: one forward and one backward, layer by layer, watched.

It runs in a process of its own, which any layer may end, and needs nothing of the kit. What it is at goes to stderr.
"""

import importlib
import importlib.util
import os
import sys

import numpy as np


def _probe():
    """The module beside this one."""
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")
    spec = importlib.util.spec_from_file_location("pylayers_probe", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROBE = _probe()


def run(file, phase, level, plan):
    """Runs a net.

    Args:
        file: of the net.
        phase: Caffe's number of it.
        level: of the net's state.
        plan: a dict that says what to watch, see `pylayers.tools.doctor.first_run`.

    Returns:
        A list of what was found, a dict each, with ``what``, and ``layer``, an index into the plan's layers.
    """
    caffe = importlib.import_module("caffe")
    caffe.set_random_seed(1701)
    more = [level] if level else []  # an old pycaffe takes no level
    try:
        net = caffe.Net(file, phase, *more)
    except BaseException:  # a layer that is not the same twice
        return [{"what": "raised", "layer": None, **PROBE.raised()}]
    for file_of_weights in plan["weights"]:
        net.copy_from(file_of_weights)
    if not plan["weights"]:
        _set_statistics(net)
    run = _Run(net, plan)
    run.forward()
    if plan["backward"] and not run.is_over:
        run.backward()
    zeros = () if plan["zeros_count"] else ("zero", "no gradient", "nothing learns")
    return [each for each in run.found if each["what"] not in zeros]


def _set_statistics(net):
    """Makes BatchNorm's running statistics those of a normal distribution: untrained they are 0, and divided by."""
    for layer in net.layers:
        if layer.type == "BatchNorm" and not layer.blobs[2].data.any():
            layer.blobs[1].data[...] = layer.blobs[2].data[...] = 1


class _Run:
    """A net that is run layer by layer, and what is found at each."""

    def __init__(self, net, plan):
        self.net, self.plan, self.found, self.is_over = net, plan, [], False
        self.random = np.random.default_rng(1701)
        self.layers = self._match()
        self.unfilled = set()  # blobs that depend on the net's inputs, whose values are made up
        self.first_wrong = None  # the first blob that is not finite, and its layer
        for name in net.inputs:
            self.unfilled.add(name)
            self._fill(name)

    def _match(self):
        """For each layer of the net its place in the plan, None for those that Caffe has put in."""
        places, at = [], 0
        for name in self.net._layer_names:
            is_planned = at < len(self.plan["layers"]) and self.plan["layers"][at]["name"] == name
            places.append(at if is_planned else None)
            at += is_planned
        return places

    def _fill(self, name):
        """Puts random numbers into a blob, or labels."""
        data, label = self.net.blobs[name].data, self.plan["labels"].get(name)
        if label:
            data[...] = self.random.integers(0, label[0], data.shape)
        else:
            data[...] = self.random.normal(size=data.shape)

    def names(self, ids):
        """The names of blobs."""
        return [self.net._blob_names[index] for index in ids]

    def add(self, what, place, **more):
        """Notes something found."""
        self.found.append({"what": what, "layer": place, **more})

    def forward(self):
        """Runs forward, and looks at each layer's blobs."""
        for index, place in enumerate(self.layers):
            _say_at(place)
            bottoms, tops = self.names(self.net._bottom_ids(index)), self.names(self.net._top_ids(index))
            if any(name in self.unfilled for name in bottoms):
                self.unfilled.update(tops)
            planned = self.plan["layers"][place] if place is not None else {}
            for bottom, label in planned.get("labels", {}).items():
                if self._has_wrong_labels(place, bottom, bottoms[bottom], label):
                    self.is_over = True  # Caffe reads out of bounds there
                    return
            watched = [name for name in bottoms if name not in tops] if planned.get("is_python") else []
            before = {name: self.net.blobs[name].data.copy() for name in watched}
            if not self._does(place, self.net._forward, index):
                return
            for name, data in before.items():
                if not np.array_equal(data, self.net.blobs[name].data, equal_nan=True):
                    self.add("changed", place, bottom=bottoms.index(name))
            for name in tops:
                if self.first_wrong is None and not np.isfinite(self.net.blobs[name].data).all():
                    self.first_wrong = name, place, _number(self.net.blobs[name].data)
            for top in planned.get("losses", ()):
                self._look_at_loss(place, tops[top])

    def _does(self, place, work, index):
        """Whether a layer does its work, a forward or a backward, without raising anything."""
        try:
            work(index, index)
        except BaseException:  # sys.exit among it
            self.is_over = True
            self.add("raised", place, **PROBE.raised())
            return False
        return True

    def _has_wrong_labels(self, place, bottom, name, label):
        """Whether Caffe would read out of bounds by the labels in a blob; notes also where none of them counts."""
        classes, ignored = label
        data = self.net.blobs[name].data
        counts = data[data != ignored] if ignored is not None else data.ravel()
        wrong = counts[~((counts == np.floor(counts)) & (counts >= 0) & (counts < classes))]
        if name in self.unfilled and (wrong.size or not counts.size):
            data[...] = self.random.integers(0, classes, data.shape)  # it is made of made-up inputs
            return False
        if wrong.size:
            # One that is out of range says more than one that is not whole.
            out = wrong[~((wrong >= 0) & (wrong < classes))]
            value = float((out if out.size else wrong)[0])
            where = np.argwhere(np.isnan(data) if np.isnan(value) else data == value)[0].tolist()
            self.add("labels", place, bottom=bottom, value=value, where=where, classes=classes)
        elif not counts.size and data.size:
            self.add("ignored", place, bottom=bottom, value=ignored)
        return bool(wrong.size)

    def _look_at_loss(self, place, name):
        """What is wrong with the value of a loss, the data of its top."""
        data, is_made_up = self.net.blobs[name].data, name in self.unfilled
        if not np.isfinite(data).all():
            first, culprit, first_number = self.first_wrong
            found = {"number": _number(data), "blob": first, "culprit": culprit, "first_number": first_number}
            self.add("not finite", place, is_made_up=is_made_up, **found)
        elif not data.any() and not self._has("ignored"):
            self.add("zero", place, is_made_up=is_made_up)

    def backward(self):
        """Runs backward, and looks at what each layer hands down."""
        for index in range(len(self.layers) - 1, -1, -1):
            place = self.layers[index]
            _say_at(place, "backward of ")
            if not self._does(place, self.net._backward, index):
                return
            planned = self.plan["layers"][place] if place is not None else {}
            # What forward has shown explains what backward would.
            if planned.get("runs_backward") and not self._has(*_EXPLAINS) and self._has_wrong_gradient(index, place):
                return
        params = [blob for layer in self.net.layers for blob in layer.blobs]
        is_open = self.plan["learns"] and params and not self._has(*_EXPLAINS, "no gradient")
        if is_open and not any(blob.diff.any() for blob in params):
            self.add("nothing learns", None)

    def _has(self, *kinds):
        return any(each["what"] in kinds for each in self.found)

    def _has_wrong_gradient(self, index, place):
        """Whether a layer hands down a gradient that is not finite; notes also one that is 0."""
        planned = self.plan["layers"][place]
        bottoms, tops = self.names(self.net._bottom_ids(index)), self.names(self.net._top_ids(index))
        asked = [bottom for bottom, is_asked in enumerate(planned["asked"]) if is_asked]
        diffs = [self.net.blobs[bottoms[bottom]].diff for bottom in asked]
        for bottom, diff in zip(asked, diffs):
            if not np.isfinite(diff).all():
                is_made_up = bottoms[bottom] in self.unfilled
                self.add("gradient", place, bottom=bottom, number=_number(diff), is_made_up=is_made_up)
                return True
        comes = any(self.net.blobs[name].diff.any() for name in tops)
        if planned["is_python"] and asked and comes and not any(diff.any() for diff in diffs):
            self.add("no gradient", place, bottom=asked[0])
        return False


_EXPLAINS = ("labels", "ignored", "not finite", "zero")


def _number(data):
    return "NaN" if np.isnan(data).any() else "infinite"


def _say_at(place, work=""):
    if place is not None:
        print(f"pylayers is at {work}{place}", file=sys.stderr, flush=True)
