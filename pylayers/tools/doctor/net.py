"""`pylayers doctor`: a net as the rules see it: its layers in one phase, and how they depend on each other."""

from caffe.proto import caffe_pb2

from pylayers import caffe_facts
from pylayers.caffe_nets.read import PHASES, included
from pylayers.tools.doctor.finding import Finding


class Layer:
    """A layer of a net in one phase.

    Attributes:
        param: the LayerParameter.
        field: the layer's place in the prototxt text, a `Field`.
        sources: for each bottom the `Layer` that it comes from, or None.
        asked: for each bottom, whether Caffe asks for its gradient when it runs the layer's backward.
        is_reached: whether the layer or one below it learns.
        is_under_loss: whether another layer that is a loss depends on it.
        runs_backward: whether Caffe runs the layer's backward in training.
    """

    def __init__(self, param, field, sources):
        self.param, self.field, self.sources = param, field, sources
        below = [source is not None and source.is_reached for source in sources]
        self.asked = list(param.propagate_down) if len(param.propagate_down) == len(below) else below
        self.is_reached = any(below) or caffe_facts.learns(param)
        self.is_under_loss = self.runs_backward = False


class Net:
    """A net in one phase, as Caffe filters it.

    Attributes:
        path: the path of the file that holds it.
        phase: "train" or "test".
        param: the NetParameter, with the layers of both phases, and with the state of this phase.
        field: the net's place in the prototxt text, a `Field`.
        layers: a `Layer` for each layer of the phase.
        cut: the lines of the layers that something was cut out of which Caffe does not know.
        solver: the path of the solver that names it, or None.
        weights: the files of weights that the solver names, a list.
        is_trained: whether it is the train net of a solver.
        modules: a dict from the name of each module of its Python layers to its `modules.Module`. `check` sets it, and
            `gpus`, before it applies a rule.
        gpus: what ``--gpu`` says, or None.
        shapes: dict from blob to shape once the net has been built, else None.
    """

    def __init__(self, path, phase, param, field, state=None, *, cut=(), solver=None, weights=(), is_trained=False):
        self.path, self.phase, self.field = path, phase, field
        self.cut, self.solver, self.weights, self.is_trained = cut, solver, weights, is_trained
        self.param = caffe_pb2.NetParameter()
        self.param.CopyFrom(param)
        # Merged in the order in which Caffe's solver does it.
        self.param.state.CopyFrom(caffe_pb2.NetState(phase=PHASES[phase]))
        self.param.state.MergeFrom(param.state)
        if state is not None:
            self.param.state.MergeFrom(state)
        self.layers = self._connected()
        self.modules, self.shapes, self.gpus = {}, None, None

    def _connected(self):
        """The layers of the phase, each with its sources and gradients as Caffe's Net::Init works them out."""
        layers, made = [], {}
        for param, field in zip(self.param.layer, self.field.all("layer")):
            if included(param, self.param.state, PHASES[self.phase]):
                layer = Layer(param, field, [made.get(name) for name in param.bottom])
                layers.append(layer)
                made.update(dict.fromkeys(param.top, layer))
        under_loss, wanted = set(), set()  # layers that a loss depends on; layers whose tops get a gradient
        for layer in reversed(layers):
            is_end = caffe_facts.is_loss(layer.param)
            layer.is_under_loss = layer in under_loss
            if is_end or layer.is_under_loss:
                under_loss.update(layer.sources)
                layer.runs_backward = layer.is_reached and (is_end or layer in wanted)
                if layer.runs_backward:
                    wanted.update(source for source, asked in zip(layer.sources, layer.asked) if asked)
        if self.param.force_backward:
            for layer in layers:
                layer.runs_backward = True
                if layer.param.type == "Python" or layer.param.type in caffe_facts.NO_BACKWARD:
                    layer.asked = [True] * len(layer.sources)
        return layers

    @property
    def is_whole(self):
        """Whether every bottom is the top of a layer, or an input of the net."""
        return all(
            source is not None or name in self.param.input
            for layer in self.layers
            for name, source in zip(layer.param.bottom, layer.sources)
        )

    def python_layers(self):
        """The layers of type Python."""
        return [layer for layer in self.layers if layer.param.type == "Python"]

    @property
    def is_constant(self):
        """Whether all that it is fed with are constants of DummyData, so that zeros in it say nothing."""
        data = [layer.param for layer in self.layers if not layer.param.bottom]
        fillers = [filler.type for param in data for filler in param.dummy_data_param.data_filler]
        return all(param.type == "DummyData" for param in data) and set(fillers) <= {"constant"}

    @property
    def has_loss(self):
        """Whether a layer has a loss weight other than 0."""
        return any(caffe_facts.is_loss(layer.param) for layer in self.layers)

    def takers(self, layer):
        """The layers that take a top of `layer` as a bottom."""
        return [other for other in self.layers if layer in other.sources]

    def described(self, layer):
        """What the probe says of a Python layer's class; None where the class could not be imported."""
        module = self.modules.get(layer.param.python_param.module)
        return module and module.classes.get(layer.param.python_param.layer)

    def error(self, layer, path, found, write, detail=""):
        """A `Finding` about a layer.

        Args:
            layer: the `Layer`.
            path: the names of the fields that lead to the line, such as ("python_param", "module"); () for the layer's.
            found: what is wrong.
            write: what to write instead.
            detail: a traceback.
        """
        return Finding("error", found, write, self.path, layer.field.line_of(*path), layer.param.name, detail)

    def warning(self, layer, path, found, write, detail=""):
        """A `Finding` about what may be meant; the arguments are those of `error`."""
        return self.error(layer, path, found, write, detail)._replace(severity="warning")


def names(layers):
    """The names of layers, for a message."""
    return ", ".join(f'"{layer.param.name}"' for layer in layers)
