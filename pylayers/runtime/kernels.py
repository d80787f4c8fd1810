"""The CUDA kernels of a loss: their source, their structs as ctypes classes, and what launches them."""

import ctypes
import functools
import math
import re
from pathlib import Path

from pylayers.runtime import geometry, gpu

NAMES = ("forward", "backward")
_COMMON = Path(__file__).with_name("common.cu")
_TYPES = {
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "long long": ctypes.c_longlong,
    "unsigned int": ctypes.c_uint,
}


class Kernels:
    """The kernels ``forward`` and ``backward`` of one loss, each with one argument, a ``struct Params``.

    Sizes and numbers that Python and CUDA share are written in Python, and reach the kernels as macros. Structs are
    written in the CUDA source, and Python reads their fields there. So nothing is written twice.

    Attributes:
        path: the path of the file with the kernels. ``common.cu`` comes before it.
        macros: what every variant of these kernels is compiled with, a dict from name to int.
    """

    def __init__(self, path, constants=None):
        self.path = Path(path)
        self.macros = {**geometry.SIZES, **(constants or {})}

    @functools.cached_property
    def source(self):
        """The CUDA C, without the macros."""
        text = "".join(path.read_text(encoding="utf-8") for path in (_COMMON, self.path))
        # CuPy writes it to a file in the locale's encoding, which may lack characters of the comments.
        return text.encode("ascii", "ignore").decode("ascii")

    def options(self, variant):
        """The options of the CUDA compiler for a variant, pairs of macro and value."""
        return tuple(f"-D{name}={value}" for name, value in {**self.macros, **dict(variant)}.items())

    @functools.cached_property
    def params(self):
        """The ctypes class of ``struct Params``."""
        return self.struct("Params")

    def struct(self, name):
        """The ctypes class of a struct of the source, whose fields are numbers, pointers, or arrays of numbers."""
        (body,) = re.findall(rf"^struct {name} \{{\n(.*?)^\}};", self.source, re.DOTALL | re.MULTILINE)
        fields = []
        for line in body.splitlines():
            pattern = r"  (?:const |volatile )?([\w ]+?)(\*)? (\w+)(?:\[([\w *]+)\])?;\s*(?://.*)?"
            kind, pointer, field, length = re.fullmatch(pattern, line).groups()
            number = ctypes.c_void_p if pointer else _TYPES[kind]
            if length:
                number *= math.prod(self.macros[factor] for factor in length.split(" * "))
            fields.append((field, number))
        return type(name, (ctypes.Structure,), {"_fields_": fields})


class Launcher:
    """A loss's kernels on one GPU, with the Params and the scratch of one layer. That GPU must be current in each call.

    Attributes:
        processors: the number of the GPU's multiprocessors.
        plan: a `Plan`, how the kernels are launched.
        shapes: the bottoms' shapes that the plan is for; None at first.
    """

    def __init__(self, kernels, device, pointers):
        self._kernels, self._device = kernels, device
        self.processors = gpu.backend.processors(device)
        self.plan = self.shapes = None
        size = ctypes.sizeof(kernels.struct("Scratch"))
        self._scratch = gpu.backend.array([0.0] * (size // ctypes.sizeof(ctypes.c_double)))
        self._always = {**pointers, "scratch": self._scratch.data.ptr}
        fields = kernels.params._fields_
        self._changing = [
            name for name, kind in fields if kind is ctypes.c_void_p and name not in (*self._always, "kept")
        ]

    def set(self, plan, shapes):
        """Prepares the launches for other shapes.

        Args:
            plan: the layer's `Plan` for these shapes.
            shapes: the bottoms' shapes.
        """
        self.plan = plan
        # A new struct is safe: kernels already queued copied the old one when they were launched.
        self._params = self._kernels.params(**plan.fields, **self._always)
        self._argument = ctypes.c_void_p(ctypes.addressof(self._params))
        variant = tuple(sorted(plan.macros.items()))
        self._launches = {name: self._prepare(name, variant) for name in NAMES}
        if plan.kept:
            self._kept = gpu.backend.empty(plan.kept)
            self._params.kept = self._kept.data.ptr
        self.shapes = shapes  # last: an error above leaves them unprepared

    def _prepare(self, name, variant):
        """The handle of a kernel, and the number of blocks: no more than the GPU can run at once."""
        function = gpu.backend.function(self._device, self._kernels, variant, name)
        of_processor = gpu.backend.blocks_of_processor(function, geometry.THREADS)
        if not of_processor:
            raise RuntimeError(
                f"this GPU cannot run the kernel {name} of {self._kernels.path.parent.name}: it is too small"
            )
        return function, min(self.plan.tiles, self.processors * of_processor, geometry.MAX_BLOCKS)

    def clear(self, field):
        """Fills a field of Scratch with zeros, after what has been launched."""
        place = getattr(self._kernels.struct("Scratch"), field)
        gpu.backend.clear(self._scratch.data.ptr + place.offset, place.size)

    def launch(self, name, pointers, numbers):
        """Starts a kernel.

        Args:
            name: "forward" or "backward".
            pointers: a dict from fields of Params to the addresses of this launch; those that are left out become 0.
            numbers: a dict from fields of Params to numbers; those that are left out stay as they are.
        """
        for field, number in numbers.items():
            setattr(self._params, field, number)
        for field in self._changing:
            setattr(self._params, field, pointers.get(field))
        gpu.backend.launch(*self._launches[name], geometry.THREADS, ctypes.addressof(self._argument))
