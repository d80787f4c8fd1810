"""Proves a layer's gradient: backward against central differences of forward, on real Caffe.

It takes any layer: a Python layer of anyone's, or one of Caffe's own. The layer alone is put into a net, with an
Input for each bottom; everything else is what Caffe itself does with it.
"""

import functools
import importlib
import tempfile
from typing import NamedTuple, Optional

import caffe
import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from pylayers import nets
from pylayers.output import UserError

# Caffe's own gradient checker moves each value by 1e-2; here that is relative to the blob's root mean square.
STEP = 1e-2
# Of the blob's largest gradient. The difference quotient itself is off by about STEP², 1e-4.
THRESHOLD = 1e-3
# Blobs of up to this many elements are checked element by element, larger ones along random directions.
EXHAUSTIVE = 2000
DIRECTIONS = 20
# Half a unit in the last place of float32, times four: a top is the end of a few rounded operations.
_NOISE = 4 * 2.0**-24
# Losses of Caffe's own whose second bottom holds labels.
LABEL_LOSSES = ("HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "SoftmaxWithLoss")
_SENTINEL = np.float32(12345.5)


class BlobResult(NamedTuple):
    """What was found for one bottom or parameter blob."""

    blob: str
    checked: int  # elements, or directions
    skipped: int  # elements at a kink
    worst: str  # the worst element or direction, with both derivatives
    error: float  # its difference
    tolerance: float  # what that difference may be


class Report(NamedTuple):
    """All that was found: one result for each blob, and the rules of backward that are broken."""

    results: list
    violations: list

    @property
    def passed(self):
        """True if no derivative is off and no rule is broken."""
        return not self.violations and all(result.error <= result.tolerance for result in self.results)

    def __str__(self):
        lines = []
        for result in self.results:
            verdict = "ok" if result.error <= result.tolerance else "WRONG"
            skipped = f", {result.skipped} at a kink skipped" if result.skipped else ""
            lines.append(
                f"{verdict:5}  {result.blob}: {result.checked} checked{skipped}; largest difference {result.error:.2g} "
                f"(allowed {result.tolerance:.2g}) {result.worst}"
            )
        if any(line.startswith("WRONG") for line in lines):
            lines.append(
                "       one or two that are off a little, in a loss with kinks or bends such as L1 or Huber, may lie "
                "within a step of one: try a smaller step (0.001)"
            )
        return "\n".join(lines + [f"WRONG  {violation}" for violation in self.violations])


class NothingToCheckError(ValueError):
    """A layer without a bottom or a parameter that has a gradient: to say that it is right would prove nothing."""


def assert_gradient(layer, bottoms, **options):
    """Checks a layer's gradient in a user's own tests.

    Args:
        layer: as for `check_gradient`.
        bottoms: as for `check_gradient`.
        **options: as for `check_gradient`.

    Raises:
        AssertionError: a derivative is off or a rule is broken; the message is the whole report.
        ValueError: as `check_gradient`.
    """
    report = check_gradient(layer, bottoms, **options)
    assert report.passed, f"the gradient of {layer} is wrong:\n{report}"


def check_gradient(
    layer,
    bottoms,
    *,
    labels: Optional[dict] = None,
    constants=(),
    loss_weight: Optional[float] = None,
    step=STEP,
    threshold=THRESHOLD,
    kink=0.0,
    kink_range=-1.0,
    seed=1701,
    phase=caffe.TEST,
):
    """Compares backward with central differences of forward.

    The objective is Σ v·top, v being the tops' diff: random numbers, or `loss_weight` for a layer whose first top has
    one element, so that a layer which ignores its top's diff is found out. float32 limits what can be seen: a
    derivative may be off by `threshold` times the blob's largest one, plus the rounding of the objective over the step.

    Beside the derivatives it checks that backward writes a bottom's diff and does not add to it, and leaves it alone
    where propagate_down is false (only for layers with two bottoms that have a gradient; Caffe calls no backward else).

    Args:
        layer: a LayerParameter, or its prototxt text from ``type:`` on; names of bottoms and tops do not matter.
        bottoms: for each bottom its shape (filled with normal random numbers), or an array.
        labels: dict from the index of a bottom to the number of its classes; it is filled with whole numbers.
        constants: indices of more bottoms that have no gradient. Not needed for what is known to have none: the
            CONSTANTS of a loss on the kit's base classes, the labels of Caffe's own losses.
        loss_weight: the first top's diff where it has one element; 0.3 if not given.
        step: how far a value is moved, relative to the root mean square of its blob.
        threshold: see above.
        kink: with `kink_range`, as Caffe's checker: where abs(value) lies within `kink_range` of `kink`, the forward
            may have a kink, and the element is skipped.
        kink_range: negative for no kink.
        seed: of all random numbers, the layer's own included.
        phase: caffe.TEST or caffe.TRAIN.

    Returns:
        A `Report`.

    Raises:
        ValueError: the text is no layer, an index is out of range, or (`NothingToCheckError`) there is no bottom with a
            gradient, and no parameter.
    """
    labels = labels or {}
    _check_indices(len(bottoms), labels, constants)
    layer = _layer_parameter(layer)
    constants = {*constants, *_known_constants(layer, len(bottoms), labels)}
    random = np.random.default_rng(seed)
    values = [_values(index, bottom, labels, random) for index, bottom in enumerate(bottoms)]
    wanted = [index for index in range(len(bottoms)) if index not in labels and index not in constants]
    subject = _Subject(layer, values, wanted, seed, phase)
    subject.draw_upstream(random, 0.3 if loss_weight is None else loss_weight)

    subject.backward(prefill=0)
    blobs = {f"bottom[{index}]": subject.bottom(index) for index in wanted}
    blobs.update({f"blobs[{index}]": blob for index, blob in enumerate(subject.params())})
    if not blobs:
        raise NothingToCheckError("nothing to check: each bottom is a label or a constant, and there is no parameter")
    gradients = {name: blob.diff.copy() for name, blob in blobs.items()}
    results = [
        _check_blob(name, blob.data, gradients[name], subject, step, threshold, (kink, kink_range), random)
        for name, blob in blobs.items()
    ]
    violations = _added(subject, wanted, gradients)
    violations += _written_unasked(layer, values, wanted, seed, phase)
    return Report(results, violations)


def run(options):
    """The command.

    Args:
        options: a namespace with the arguments of ``pylayers check-gradient``.

    Returns:
        The exit status: 0 where the gradient is right, 1 where not.

    Raises:
        UserError: there is no such layer, or Caffe refuses it or its bottoms.
    """
    phase = nets.PHASES[options.phase]
    if options.net and options.layer:
        if options.subject or options.bottom or options.param_str or options.params:
            raise UserError(
                "--net and --layer take the layer from the net: give no LAYER, --bottom, --param-str or --params"
            )
        layer, bottoms = _layer_in_net(options.net, options.layer, phase)
    elif options.subject:
        layer, bottoms = _layer_by_name(options), options.bottom
        if not bottoms:
            raise UserError("give the shape of each bottom, such as --bottom 4,10 --bottom 4")
    else:
        raise UserError("give a layer, as module:Class or a type of Caffe's, or --net and --layer")
    check = functools.partial(
        _checked,
        layer,
        bottoms,
        labels=dict(options.labels),
        constants=options.constant,
        loss_weight=options.loss_weight,
        step=options.step,
        threshold=options.threshold,
        kink=options.kink,
        kink_range=options.kink_range,
        seed=options.seed,
        phase=phase,
    )
    report = nets.rehearsed(check, options.subject or options.layer)
    print(report)
    return 0 if report.passed else 1


def _checked(*arguments, **options):
    try:
        return check_gradient(*arguments, **options)
    except NothingToCheckError as error:
        raise UserError(str(error)) from None


def _layer_by_name(options):
    module, _, name = options.subject.rpartition(":")
    if name == "Python":
        raise UserError("name a Python layer as module:Class")
    text = f"type: '{name}' {options.params}"
    if module:
        _layer_class(module, name)
        text = f"type: 'Python' {options.params}"
    try:
        layer = _layer_parameter(text)
    except ValueError as error:
        raise UserError(str(error)) from None
    if module:
        layer.python_param.module, layer.python_param.layer = module, name
        layer.python_param.param_str = options.param_str
    return layer


def _layer_class(module, name):
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"cannot import {module}: {error}") from None
    if not hasattr(found, name):
        raise UserError(f"the module {module} has no {name}")
    return getattr(found, name)


def _layer_in_net(path, name, phase):
    """The parameter of a layer of a net, and the values of its bottoms."""
    layers = nets.read_layers(path, phase)
    if name not in [layer.name for layer in layers]:
        names = ", ".join(f'"{layer.name}"' for layer in layers)
        raise UserError(f'{path} has no layer "{name}" in this phase; it has {names}')
    layer = next(layer for layer in layers if layer.name == name)
    if not layer.bottom:
        raise UserError(f'the layer "{name}" of {path} has no bottom, and no gradient')
    return layer, nets.rehearsed(functools.partial(_bottoms_in_net, path, layer, phase), path)


def _bottoms_in_net(path, layer, phase):
    """The values of a layer's bottoms, as they are when it is its turn: a later layer may work in place."""
    net = caffe.Net(path, phase)
    index = list(net._layer_names).index(layer.name)
    if index:
        net._forward(0, index - 1)
    return [net.blobs[net._blob_names[blob]].data.copy() for blob in net._bottom_ids(index)]


def _known_constants(layer, count, labels):
    """The label of a loss of Caffe's own, and the bottoms that a loss on the kit's base class says are constant."""
    if layer.type in LABEL_LOSSES:
        return [] if 1 in labels else [1]
    if layer.type != "Python":
        return []
    try:
        kind = _layer_class(layer.python_param.module, layer.python_param.layer)
    except UserError:  # Caffe says why where it is to make the layer
        return []
    names = (getattr(kind, "BOTTOMS", ()) + getattr(kind, "OPTIONAL_BOTTOMS", ()))[:count]
    return [index for index, name in enumerate(names) if name in getattr(kind, "CONSTANTS", ()) and index not in labels]


class _Subject:
    """A net with the layer under test, whose bottoms pass a Scale of ones where they want a gradient."""

    def __init__(self, layer, values, wanted, seed, phase, propagate_down=()):
        param = caffe_pb2.NetParameter()
        for index, array in enumerate(values):
            source = param.layer.add(
                name=f"in{index}", type="Input", top=[f"in{index}" if index in wanted else f"b{index}"]
            )
            source.input_param.shape.add(dim=array.shape)
            if index in wanted:
                scale = param.layer.add(name=f"scale{index}", type="Scale", bottom=[f"in{index}"], top=[f"b{index}"])
                scale.scale_param.axis = scale.scale_param.num_axes = 0
                scale.scale_param.filler.value = 1
        subject = param.layer.add()
        subject.CopyFrom(layer)
        self.tops = [f"t{index}" for index in range(max(1, len(layer.top)))]
        subject.ClearField("include")
        subject.ClearField("exclude")
        subject.name = "subject"
        subject.bottom[:] = [f"b{index}" for index in range(len(values))]
        subject.top[:] = self.tops
        subject.loss_weight[:] = [1] * len(self.tops)
        subject.propagate_down[:] = propagate_down
        for param_spec in subject.param:
            param_spec.lr_mult = 1  # of a frozen parameter Caffe computes no gradient
        caffe.set_random_seed(seed)
        with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
            file.write(text_format.MessageToString(param))
            file.flush()
            self.net = caffe.Net(file.name, phase)
        self.seed = seed
        self.index = list(self.net._layer_names).index("subject")
        for index, array in enumerate(values):
            self.bottom(index).data[...] = array
        self.upstream = [np.ones(self.net.blobs[top].data.shape) for top in self.tops]

    def bottom(self, index):
        return self.net.blobs[f"b{index}"]

    def params(self):
        return list(self.net.layers[self.index].blobs)

    def draw_upstream(self, random, loss_weight):
        """Sets the tops' diff: only the first one's where that is a loss, since its other tops are by-products."""
        self.forward()
        shapes = [self.net.blobs[top].data.shape for top in self.tops]
        if np.prod(shapes[0]) == 1:
            self.upstream = [np.full(shapes[0], loss_weight), *(np.zeros(shape) for shape in shapes[1:])]
        else:
            self.upstream = [random.normal(size=shape) for shape in shapes]

    def forward(self):
        caffe.set_random_seed(self.seed)  # a layer that draws random numbers draws the same ones each time
        self.net._forward(self.index, self.index)

    def objective(self):
        """Σ v·top in float64, and the size of its rounding errors."""
        self.forward()
        terms = [v * self.net.blobs[top].data.astype(np.float64) for v, top in zip(self.upstream, self.tops)]
        return sum(term.sum() for term in terms), _NOISE * sum(np.abs(term).sum() for term in terms)

    def backward(self, prefill):
        """Runs the layer forward and backward, its bottoms' diffs holding `prefill` before."""
        self.forward()
        for top, v in zip(self.tops, self.upstream):
            self.net.blobs[top].diff[...] = v
        for name, blob in self.net.blobs.items():
            if name.startswith("b"):
                blob.diff[...] = prefill
        self.net._backward(self.index, self.index)


def _check_blob(name, data, gradient, subject, step, threshold, kink, random):
    if not np.isfinite(gradient).all():
        position = tuple(int(axis) for axis in np.argwhere(~np.isfinite(gradient))[0])
        return BlobResult(name, gradient.size, 0, f"at {position}, backward says {gradient[position]}", np.inf, 0.0)
    kinked = np.abs(np.abs(data) - kink[0]) <= kink[1]
    size = step * (np.sqrt(np.mean(np.square(data, dtype=np.float64))) or 1.0)
    exhaustive = data.size <= EXHAUSTIVE
    directions = np.argwhere(~kinked) if exhaustive else range(DIRECTIONS)
    rows = []
    for direction in directions:
        if exhaustive:
            place, signs, text = tuple(direction), 1.0, f"at {tuple(int(axis) for axis in direction)}"
        else:
            signs = random.choice([-1.0, 1.0], data.shape) * ~kinked
            place, text = ..., f"along random direction {direction}"
        numeric, noise = _central_difference(data, place, signs * size, subject)
        expected = float(np.sum(gradient[place] * signs, dtype=np.float64))
        if not np.isfinite(numeric):
            return BlobResult(name, len(rows) + 1, 0, f"{text}, where forward is not finite", np.inf, 0.0)
        rows.append((abs(numeric / size - expected), noise / size, text, expected, numeric / size))
    if not rows:
        return BlobResult(name, 0, int(kinked.sum()), "all elements lie at the kink: nothing is checked", np.inf, 0.0)
    if not gradient.any() and not any(row[4] for row in rows):
        return BlobResult(name, len(rows), int(kinked.sum()), "where every derivative is 0", 0.0, 0.0)
    scale = max(np.abs(gradient).max(), *(abs(row[4]) for row in rows)) if exhaustive else np.linalg.norm(gradient)
    error, noise, text, expected, numeric = max(rows, key=lambda row: row[0] - row[1])
    worst = f"{text}, where backward says {expected:.6g} and forward {numeric:.6g}"
    return BlobResult(name, len(rows), int(kinked.sum()), worst, error, float(threshold * scale + noise))


def _central_difference(data, place, move, subject):
    """Half of objective(x + move) − objective(x − move), and its rounding error; the values are restored."""
    kept = data[place].copy()
    try:
        data[place] = kept + move
        above, noise = subject.objective()
        data[place] = kept - move
        below, _ = subject.objective()
    finally:
        data[place] = kept
    return (above - below) / 2, noise


def _added(subject, wanted, gradients):
    """Bottoms whose diff depends on what was in it before backward."""
    subject.backward(prefill=_SENTINEL)
    return [
        f"bottom[{index}]: backward adds to the diff, or leaves elements of it as they were; it must write each one"
        for index in wanted
        if not np.allclose(subject.bottom(index).diff, gradients[f"bottom[{index}]"], rtol=1e-3, atol=1e-3)
    ]


def _written_unasked(layer, values, wanted, seed, phase):
    """Bottoms whose diff changes although their propagate_down is false."""
    violations = []
    for index in wanted if len(wanted) > 1 else ():
        flags = [other in wanted and other != index for other in range(len(values))]
        subject = _Subject(layer, values, wanted, seed, phase, flags)
        subject.backward(prefill=_SENTINEL)
        if (subject.bottom(index).diff != _SENTINEL).any():
            violations.append(f"bottom[{index}]: backward writes the diff although propagate_down[{index}] is false")
    return violations


def _values(index, bottom, labels, random):
    if isinstance(bottom, np.ndarray):
        return bottom
    if index in labels:
        return random.integers(0, labels[index], bottom)
    return random.normal(size=bottom)


def _layer_parameter(layer):
    if isinstance(layer, caffe_pb2.LayerParameter):
        return layer
    try:
        return text_format.Parse(layer, caffe_pb2.LayerParameter())
    except text_format.ParseError as error:
        raise ValueError(f"this is no layer's prototxt text ({error}): {layer!r}") from None


def _check_indices(count, labels, constants):
    for index in [*labels, *constants]:
        if not 0 <= index < count:
            raise ValueError(f"there is no bottom {index}; the layer has {count}, counted from 0")
