"""What `pylayers doctor` tries out in a process of its own: imports, classes, nets. Any of it may end the process.

`environment.ask` calls its functions in a child process. Their module path is that of `caffe train`: PYTHONPATH and the
installed packages, without the current folder. The kit may not be there, so this module imports nothing of it above.
"""

import glob
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback

# The methods that Caffe calls, each with its parameters after self.
CALLED = {
    "setup": ("bottom", "top"),
    "reshape": ("bottom", "top"),
    "forward": ("bottom", "top"),
    "backward": ("top", "propagate_down", "bottom"),
}
# The methods of subclasses that LossLayer calls; their parameters are read from LossLayer itself.
CALLED_BY_LOSS_LAYER = ("forward_cpu", "backward_cpu", "forward_gpu", "backward_gpu")
# The methods of subclasses that ArrayLossLayer calls with xp and the bottoms, each with the methods that lead there.
CALLED_BY_ARRAY_LOSS_LAYER = {"loss": ("forward", "forward_cpu"), "gradients": ("backward", "backward_cpu")}


def locate():
    """Looks for Caffe without importing it: a Caffe for another Python may end the process."""
    spec = importlib.util.find_spec("caffe")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in sorted(glob.glob(os.path.join(glob.escape(folder), "_caffe*.so")))]
    binaries = list(filter(os.path.isfile, found))
    return {
        "folders": folders,
        "binaries": binaries,
        "built_for": next(filter(None, map(_built_for, binaries)), None),
        "first": _place(spec),
        "others": _others("caffe", _place(spec)),
        "pylayers": _place(importlib.util.find_spec("pylayers")),
        "placeholder": any(importlib.metadata.distributions(name="caffe")),
    }


def _place(spec):
    """Where a module lies: its file, or its folder; None for none."""
    if spec is None:
        return None
    if os.path.basename(spec.origin or "").startswith("__init__.") or not spec.has_location:
        return next(iter(spec.submodule_search_locations or ()), None)
    return spec.origin


def _others(name, first):
    """The other places on the module path that have a module of that name."""
    specs = [importlib.machinery.PathFinder.find_spec(name, [folder]) for folder in sys.path]
    return [place for place in dict.fromkeys(map(_place, specs)) if place not in (None, first)]


def environment():
    """Imports Caffe; returns a dict of facts about it, with ``traceback`` and ``error`` where the import fails."""
    try:
        caffe = importlib.import_module("caffe")
    except BaseException:  # sys.exit among it
        return raised()
    if not hasattr(caffe, "Net") or not hasattr(caffe, "layer_type_list"):
        return {"is_pycaffe": False}
    return {
        "is_pycaffe": True,
        "caffe": getattr(caffe, "__version__", None),
        "python_layers": "Python" in list(caffe.layer_type_list()),
        "numpy": importlib.import_module("numpy").__version__,
        "protobuf": importlib.import_module("google.protobuf").__version__,
        "numba": _numba(),
        "cuda": _cuda_in_use(),
    }


def _numba():
    """The version of a Numba that the layers can use; None where there is none, and they run on NumPy."""
    try:
        module = importlib.import_module("numba")
    except Exception:
        return None
    return None if module.config.DISABLE_JIT else module.__version__


def gpu(device):
    """Puts Caffe in GPU mode; Caffe ends the process where it cannot."""
    caffe = importlib.import_module("caffe")
    caffe.set_mode_gpu()
    caffe.set_device(device)
    return {"cuda": _cuda_in_use(), "has_addresses": hasattr(caffe._caffe.Blob, "_gpu_data_ptr")}


def cupy(device):
    """Imports CuPy and computes with it on a GPU, given by its number; returns a dict with what came of it."""
    try:
        module = importlib.import_module("cupy")
    except BaseException as error:
        return {"missing": getattr(error, "name", None) == "cupy", **raised()}
    found = {"cupy": module.__version__}
    try:
        found["cuda"] = module.cuda.runtime.runtimeGetVersion() // 1000
        found["devices"] = module.cuda.runtime.getDeviceCount()
        with module.cuda.Device(device):
            found["computes"] = float((module.arange(3) + 1).sum()) == 6
    except BaseException:
        found.update(raised())
    return found


def classes(module, layers):
    """Imports a module that a net names.

    Args:
        module: the module's name.
        layers: dict from the name of each class that the net takes from it to a list of that class's param_strs.

    Returns:
        A dict: ``traceback`` and ``error`` where the import fails, else ``names``, all that the module has, and
        ``file``, where it lies, and
        ``classes``, a dict from class to what `_describe` finds.
    """
    try:
        imported = importlib.import_module(module)
    except BaseException as error:
        return {"missing": getattr(error, "name", None), **raised()}
    found = {}
    for name, param_strs in layers.items():
        try:
            kind = getattr(imported, name)
        except AttributeError:
            continue
        except BaseException:
            return {"missing": None, **raised()}
        found[name] = _describe(kind, param_strs)
    places = [getattr(imported, "__file__", None), *getattr(imported, "__path__", ())]
    return {"names": dir(imported), "classes": found, "file": next(filter(None, places), "")}


def net(file, phase, level):
    """Builds a net. Caffe logs each step, and may end the process.

    Args:
        file: the path of the prototxt file.
        phase: caffe.TRAIN or caffe.TEST.
        level: the level of the net's state.

    Returns:
        A dict with ``shapes``, the shape of each blob, or with ``traceback`` and ``error`` where a layer raises.
    """
    caffe = importlib.import_module("caffe")
    more = [level] if level else []  # an old pycaffe takes no level
    try:
        built = caffe.Net(file, phase, *more)
    except BaseException:  # sys.exit among it
        return raised()
    return {"shapes": {name: list(blob.data.shape) for name, blob in built.blobs.items()}}


def raised():
    """What is being handled, a dict.

    Returns:
        Its ``traceback``; of this the line with the exception as ``error``; ``is_kits``, whether the kit raised it for
        a mistake of the user's; ``at``, the file and line in the user's own code where there is any.
    """
    kind, raised, trace = sys.exc_info()
    error = traceback.TracebackException(kind, raised, trace)
    frames = [(frame.filename, frame.lineno) for frame in error.stack]
    for part in _chain(error):
        # From the first line on that is neither here nor in importlib.
        while part.stack and (_is_here(part.stack[0].filename) or "importlib" in part.stack[0].filename):
            del part.stack[0]
    # A SyntaxError has indented lines of code before that line; more lines of the message may come after it.
    line = next(line for line in error.format_exception_only() if not line.startswith(" "))
    return {
        "traceback": "".join(error.format()),
        "error": line.partition("\n")[0],
        "is_kits": kind in (ValueError, TypeError) and bool(frames) and frames[-1][0].startswith(_KIT),
        "at": next((f"{file}:{line}" for file, line in reversed(frames) if _is_users(file)), None),
    }


def _is_here(file):
    """Whether a file lies beside this one."""
    return os.path.dirname(os.path.abspath(file)) == os.path.dirname(os.path.abspath(__file__))


_KIT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_INSTALLED = tuple(path + os.sep for path in map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))


def _is_users(file):
    """Whether a file is neither of the kit, nor of Python, nor of an installed package."""
    return os.path.isabs(file) and not file.startswith((_KIT, *_INSTALLED))


def _chain(error):
    """A TracebackException and those that led to it, each once."""
    parts = [error]
    for part in parts:
        parts += filter(None, (part.__cause__, part.__context__))
    return parts


def _built_for(path):
    """The Python whose library a _caffe binary asks for, such as "3.11"; None where it asks for none or is unreadable.

    Imported into another Python, such a binary loads that library: two interpreters in one process, and an error that
    does not say so.
    """
    named = re.search(r"\.cpython-(\d)(\d+)", os.path.basename(path))
    if named:
        return f"{named[1]}.{named[2]}"
    try:
        with open(path, "rb") as file:
            binary = file.read()
    except OSError:  # its import says why
        return None
    needed = re.search(rb"libpython(\d)\.(\d+)\w*\.so|libboost_python(?:3?-py)?(\d)(\d+)\.so", binary)
    return b".".join(part for part in needed.groups() if part).decode() if needed else None


def _cuda_in_use():
    """The major version of the CUDA runtime library that this process has loaded, such as 12; None for none."""
    try:
        with open("/proc/self/maps") as maps:
            loaded = re.search(r"libcudart\.so\.(\d+)", maps.read())
    except OSError:
        return None
    return int(loaded[1]) if loaded else None


def _describe(kind, param_strs):
    """What the rules want to know about a layer's class."""
    caffe = importlib.import_module("caffe")
    if not inspect.isclass(kind) or not issubclass(kind, caffe.Layer):
        return {"is_layer": False, "kind": type(kind).__name__}
    loss_layer = getattr(sys.modules.get("pylayers.layer"), "LossLayer", None)
    is_loss_layer = loss_layer is not None and issubclass(kind, loss_layer)
    found = {
        "is_layer": True,
        "is_loss_layer": is_loss_layer,
        "methods": {name: _method(kind, name, CALLED[name]) for name in CALLED},
        "param_str_errors": {},
        "weight_ignored": _weight_ignored(kind, is_loss_layer),
    }
    if is_loss_layer:
        # Where a subclass has its own forward, LossLayer does not call forward_cpu; likewise for the others.
        for name in CALLED_BY_LOSS_LAYER:
            caller, parameters = name.partition("_")[0], _parameters(loss_layer, name)
            if _owner(kind, caller) is loss_layer:
                found["methods"][name] = _method(kind, name, parameters, loss_layer if name.endswith("cpu") else None)
        if _owner(kind, "reshape") is loss_layer:  # check_shapes need not be there
            found["methods"]["check_shapes"] = _method(kind, "check_shapes", _parameters(loss_layer, "check_shapes"))
        found["methods"].update(_array_methods(kind, loss_layer))
        found["bottoms"] = [*kind.BOTTOMS, *kind.OPTIONAL_BOTTOMS]
        found["constants"] = list(kind.CONSTANTS)
        found["options"] = list(kind.OPTIONS)
        found["param_str_errors"] = {text: error for text in param_strs if (error := _param_str_error(kind, text))}
    return found


def _weight_ignored(kind, is_loss_layer):
    """Where a class writes its gradient without the loss weight, or what comes from above.

    Returns:
        A dict with ``method``, ``at`` and what to ``write``; None where it may well read it.
    """
    reads = _beside("reads")
    for name in ("backward", "backward_cpu") if is_loss_layer else ("backward",):
        owner = _owner(kind, name)
        function = inspect.unwrap(getattr(owner, name, None)) if owner else None
        code = getattr(function, "__code__", None)
        if code is None or code.co_filename.startswith(_KIT) or not reads.ignores(function, 0):
            continue
        is_scalar = is_loss_layer or reads.makes_scalar(getattr(kind, "reshape", None))
        weight = "float(top[0].diff)" if is_scalar else "top[0].diff[0]"
        weight = "loss_weight" if name == "backward_cpu" else weight
        return {"method": name, "at": f"{code.co_filename}:{code.co_firstlineno}", "write": weight}
    return None


def _beside(name):
    """A module of the kit that lies beside this one, and needs nothing of the kit."""
    file = os.path.join(os.path.dirname(__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"pylayers_{name}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _array_methods(kind, loss_layer):
    """What is wrong with the formulas of an ArrayLossLayer, as ``methods`` of `_describe`."""
    array_loss_layer = getattr(sys.modules.get("pylayers.array_layer"), "ArrayLossLayer", None)
    if array_loss_layer is None or not issubclass(kind, array_loss_layer):
        return {}
    parameters = ("xp", *kind.BOTTOMS, *(f"{name}=None" for name in kind.OPTIONAL_BOTTOMS))
    optional = len(kind.OPTIONAL_BOTTOMS)
    return {
        name: _method(kind, name, parameters, array_loss_layer, optional, _lacks_xp)
        for name, callers in CALLED_BY_ARRAY_LOSS_LAYER.items()
        if all(_owner(kind, caller) in (loss_layer, array_loss_layer) for caller in (*callers, "prepare"))
    }


def _method(kind, name, expected, abstract=None, optional=0, misplaced=None):
    """What is wrong with a method.

    Args:
        kind: the class.
        name: the method's name.
        expected: the parameters that it should have after self.
        abstract: a class whose own method of that name does not count; None for no class.
        optional: how many of the last parameters a call may leave out, which depends on the net.
        misplaced: a function that says whether a parameter stands in another's place; `_swapped` by default.

    Returns:
        A dict with ``problem`` ("missing", "parameters" or None), ``found``, ``at`` and ``expected``.
    """
    owner = _owner(kind, name)
    # caffe.Layer has a setup and a reshape, but these only call the layer's again, without end.
    if owner in (None, abstract, importlib.import_module("caffe").Layer):
        return {"problem": "missing", "found": None, "at": None, "expected": expected}
    attribute = inspect.getattr_static(kind, name)
    function = inspect.unwrap(getattr(attribute, "__func__", attribute))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # no Python code
        return {"problem": None, "found": None, "at": None, "expected": expected}
    if not isinstance(attribute, staticmethod):
        parameters = parameters[1:]  # leaves out self, or the *args that takes it
    code = getattr(function, "__code__", None)
    at = f"{code.co_filename}:{code.co_firstlineno}" if code else None
    counts = range(len(expected) - optional, len(expected) + 1)
    wrong = not any(_takes(function, count, attribute) for count in counts)
    wrong = wrong or (misplaced or _swapped)(parameters, expected)
    found = f"{name}{inspect.signature(function)}"
    return {"problem": "parameters" if wrong else None, "found": found, "at": at, "expected": expected}


def _parameters(kind, name):
    """The names of a method's parameters after self."""
    return tuple(inspect.signature(getattr(kind, name)).parameters)[1:]


def _owner(kind, name):
    return next((base for base in kind.__mro__ if name in vars(base)), None)


def _takes(function, count, attribute):
    arguments = [None] * (count if isinstance(attribute, staticmethod) else count + 1)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


def _swapped(parameters, expected):
    """True where a parameter that has the name of one of Caffe's, or begins so, stands in another's place."""
    positional = _positional(parameters)
    roles = [next((role for role in expected if name.startswith(role.split("_")[0])), None) for name in positional]
    return any(role not in (None, right) for role, right in zip(roles, expected))


def _lacks_xp(parameters, expected):
    """True where xp is a later parameter than the first, or a bottom is the first; all other names are free."""
    first, *others = _positional(parameters) or ["xp"]
    return first != "xp" and ("xp" in others or first in expected)


def _positional(parameters):
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _param_str_error(kind, text):
    try:
        kind.read_options(text)
    except (TypeError, ValueError) as error:
        return str(error)
    return None
