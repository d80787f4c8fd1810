"""`pylayers doctor`: Caffe, its Python module, its GPU mode and CuPy. Needs none of them, nor NumPy."""

import os
import platform
import re
import shutil
import sys
from pathlib import Path

from pylayers.caffe_nets import child, kit
from pylayers.caffe_nets.child import fatal
from pylayers.tools.doctor.finding import Finding, describe


def ask(do, *arguments, first=(), script="probe", timeout=None):
    """Has `probe` do something in a child process, with Caffe's log of it.

    Args:
        do: the name of the probe's function.
        *arguments: that function's arguments.
        first: folders to search for modules first.
        script: the module beside this one that has the function.
        timeout: seconds that it has; as for any child by default.

    Returns:
        A `child.Answer`.
    """
    file = str(Path(__file__).with_name(f"{script}.py"))
    timeout = timeout or child.TIMEOUT
    return child.ask(file, do, *arguments, first=first, timeout=timeout, GLOG_minloglevel="0", GLOG_logtostderr="1")


# Causes of a failed import of Caffe: the rule, a pattern in the traceback or the log, what is wrong, and what to do.
# The first that matches is reported; {1} stands for the pattern's group.
_IMPORT_FAILURES = (
    (
        "caffe-library",
        r"this Caffe needs (lib\S+): pip install",
        "Caffe needs CUDA's library {1}, which is not found",
        "pip install 'bvlc-caffe[cuda12]', or [cuda13] as the wheel is, or the folder of CUDA's libraries on "
        "LD_LIBRARY_PATH",
    ),
    (
        "caffe-library",
        r"(libcaffe\.so\S*): cannot open shared object file",
        "Caffe's library {1} is not found",
        "LD_LIBRARY_PATH=/path/to/caffe/build/lib in the environment, or build Caffe with an rpath, as make does",
    ),
    (
        "caffe-library",
        r"(lib\S+\.so[.\d]*): cannot open shared object file",
        "Caffe needs the library {1}, which is not found",
        "install the package that has {1}, or build Caffe again where it is to run",
    ),
    (
        "caffe-other-python",
        r"undefined symbol: _?Py|does not define (?:module export|init) function|Python version mismatch",
        "Caffe's Python module is built for another Python than this one",
        "run the Python that it is built for, or build pycaffe for this one",
    ),
    (
        "caffe-protobuf",
        r"Descriptors cannot (?:not )?be created directly",
        "Python's protobuf is newer than the protoc that Caffe is built with",
        "pip install 'protobuf<=3.20.3' for a protoc before 3.19, or build Caffe again with a newer protoc",
    ),
    (
        "caffe-protobuf",
        r"cannot import name '\w+' from 'google\.protobuf|Couldn't build proto file|VersionError: Detected",
        "Python's protobuf is older than the protoc that Caffe is built with",
        "pip install -U protobuf",
    ),
    (
        "caffe-protobuf",
        r"undefined symbol: \S*google8protobuf",
        "Caffe is built with another libprotobuf than the one that is found now",
        "build Caffe again with the libprotobuf that is installed",
    ),
    (
        "caffe-numpy",
        r"_ARRAY_API not found|multiarray failed to import|compiled using NumPy 1|module compiled against A[BP]I",
        "Caffe's Python module is built with the headers of another NumPy",
        "build pycaffe again with this NumPy's headers first (docker/caffe/patches/numpy-headers-first.patch)",
    ),
    (
        "caffe-dependency",
        r"No module named '?([\w.]+)",
        "Caffe's Python module needs the package {1}",
        "pip install the package that has it: scikit-image has skimage, protobuf has google.protobuf",
    ),
)
# In place of what the probe's `locate` finds, where it gives no answer: the import itself has more to say.
_NOT_LOCATED = {
    "folders": [],
    "binaries": [],
    "built_for": None,
    "first": None,
    "others": [],
    "pylayers": None,
    "placeholder": False,
}
_FACTS = ("caffe", "numpy", "numba", "protobuf", "cuda", "python_layers")


def check_caffe():
    """Imports Caffe in a child process.

    Returns:
        A dict of facts for JSON, and a list of findings. Where `is_usable` is false for these, nothing else can be
        checked.
    """
    located, answer = ask("locate").found or _NOT_LOCATED, ask("environment")
    facts = {"executable": sys.executable, "python": platform.python_version(), "folders": located["folders"]}
    facts.update({name: (answer.found or {}).get(name) for name in _FACTS})
    failure = import_failure(located, answer)
    if failure:
        return facts, [_with_other_caffe(failure, located), *_shadowed_kit(located)]
    if not facts["python_layers"]:
        return facts, [
            _error(
                "python-layers",
                f"{_this_caffe(located)} is built without Python layers",
                "build it with CMake's -DBUILD_python_layer=ON or make's WITH_PYTHON_LAYER := 1, or run make in the "
                "clone of pylayers",
            ),
            *_shadowed_kit(located),
        ]
    return facts, _shadowed_kit(located)


def _with_other_caffe(failure, located):
    """A failure to import Caffe, and that another Caffe stands behind the one that is imported."""
    other = next(iter(located["others"]), None)
    if not other or not located["first"]:
        return failure
    folder = os.path.dirname(located["first"])
    return failure._replace(
        found=f"{failure.found}; it comes before {other} on Python's path",
        write=f"take {folder} off PYTHONPATH, if {other} is the Caffe that you mean"
        + (f"; else: {failure.write}" if failure.write else ""),
    )


def _shadowed_kit(located):
    """A warning where this Python imports another pylayers than this one."""
    place = located["pylayers"]
    if place is None or os.path.realpath(place) == os.path.realpath(kit.FOLDER):
        return []
    return [Finding("warning", *kit.shadow_words(place), rule="kit-shadowed")]


def _this_caffe(located):
    return f"the Caffe in {located['folders'][0]}" if located["folders"] else "this Caffe"


def is_usable(findings):
    """Whether Caffe can be imported, by what `check_caffe` found."""
    return all(finding.rule in ("python-layers", "kit-shadowed") for finding in findings)


def import_failure(located, answer):
    """What a failed import of Caffe means.

    Args:
        located: what the probe's `locate` found.
        answer: the `child.Answer` of the probe's `environment`.

    Returns:
        A `Finding`, None where the import succeeded.
    """
    if answer.found and answer.found.get("is_pycaffe"):
        return None
    text = (answer.found or {}).get("traceback", "") + answer.log
    this, other = ".".join(platform.python_version_tuple()[:2]), located["built_for"]
    if not located["folders"] and _lacks(text, "caffe"):
        command = shutil.which("caffe")
        return _error(
            "caffe-missing",
            f"this Python, {sys.executable} ({this}), finds no Caffe"
            + (f"; the command caffe is {command}" if command else "")
            + ("; PyPI's package caffe, which is installed, is another project" if located["placeholder"] else ""),
            "run make in the clone of pylayers, or pip install the wheel that make wheel leaves in its dist/, or "
            "run the Python in which import caffe works, or put Caffe's folder python/ on PYTHONPATH",
        )
    if other not in (None, this):
        return _error(
            "caffe-other-python",
            f"{located['binaries'][0]} is built for Python {other}; this is {this}, {sys.executable}",
            f"run Python {other}, or build pycaffe for {this}",
        )
    if answer.found is None:
        return _error("caffe-import", f"import caffe {answer.end}", "build Caffe again", answer.log)
    if "traceback" not in answer.found:
        where = located["first"] or "a file named caffe.py"
        return _error(
            "caffe-missing", f"what this Python imports as caffe, {where}, is not pycaffe", "another name for it"
        )
    if not located["binaries"] and _lacks(text, "caffe._caffe"):
        return _error(
            "caffe-missing",
            f"{located['folders'][0]} has the Python files of Caffe, but not its compiled module, _caffe.so",
            "make pycaffe in Caffe's folder, or put on PYTHONPATH the one in which Caffe is built",
        )
    return _said_by_import(text)


def _said_by_import(text):
    """The `Finding` for a failed import, from its traceback and all else that was written."""
    for rule, pattern, message, write in _IMPORT_FAILURES:
        match = re.search(pattern, text)
        if match:
            named = match[1] if match.re.groups else ""
            return _error(rule, message.replace("{1}", named), write.replace("{1}", named), text)
    return _error("caffe-import", "import caffe fails", "", text)


def _lacks(text, module):
    return re.search(rf"No module named '?{re.escape(module)}'?$", text, re.MULTILINE)


def _error(rule, found, write, detail=""):
    return Finding("error", found, write, detail=detail, rule=rule)


def gpus_of(option):
    """The numbers in ``--gpu``. For "all" they are those that the driver lists, or 0 where it lists none."""
    if option != "all":
        return [int(number) for number in option.split(",")]
    try:
        return list(range(len(os.listdir("/proc/driver/nvidia/gpus")))) or [0]
    except OSError:
        return [0]


def check_gpu(gpus, **place):
    """Puts Caffe into GPU mode, and has CuPy compute, each in a child process.

    Args:
        gpus: the devices' numbers, at least one.
        **place: the file and line of the solver that wants GPU mode, for the findings.

    Returns:
        A list of findings.
    """
    for device in gpus:
        answer = ask("gpu", device)
        if answer.found is None:
            return [_gpu_failure(answer, device)._replace(**place)]
    if not answer.found["has_addresses"]:
        found = "this pycaffe gives no addresses on the GPU: in GPU mode Python losses run on the CPU"
        write = "Caffe 99bd997, its last version, as make CAFFE=--cuda builds it"
        return [Finding("warning", found, write, rule="old-pycaffe")._replace(**place)]
    caffe_cuda = answer.found["cuda"]
    answer = ask("cupy", gpus[0])
    finding = cupy_failure(answer, caffe_cuda)
    return [finding._replace(**place)] if finding else []


def _gpu_failure(answer, device):
    if "CPU-only Caffe" in answer.log:
        return _error(
            "cpu-only-caffe",
            "GPU mode, but this Caffe is built for the CPU alone: it ends with 'Cannot use GPU in CPU-only Caffe'",
            "solver_mode: CPU and no --gpu, or build Caffe for CUDA with make CAFFE=--cuda",
        )
    said = fatal(answer.log)
    says = f"Caffe says: {said}" if said else f"caffe.set_device({device}) {answer.end}"
    return _error(
        "gpu-device", f"GPU {device} cannot be used: {says}", "a GPU that nvidia-smi lists, or solver_mode: CPU"
    )


def cupy_failure(answer, caffe_cuda):
    """What is wrong with CuPy, where Caffe's GPU mode works.

    Args:
        answer: the `child.Answer` of the probe's `cupy`.
        caffe_cuda: the major version of the CUDA that Caffe uses, such as 12; None where it is not known.

    Returns:
        A `Finding`, a warning: without CuPy the losses run on the CPU, with the same results. None for nothing.
    """
    package = f"cupy-cuda{caffe_cuda}x" if caffe_cuda else "cupy-cuda12x or cupy-cuda13x, as Caffe's CUDA is,"
    install = f"pip install {package} and uninstall any other CuPy"
    found = answer.found
    text = (found or {}).get("traceback", "")
    if found is None:
        rule, what, write = "cupy-device", f"CuPy {answer.end}", install
    elif found.get("missing"):
        rule, what, write = "cupy-missing", "CuPy is not installed", f"pip install {package.rstrip(',')}"
    elif "cupy" not in found:
        other = re.search(r"lib\w+\.so\.(\d+)\S*: cannot open shared object file", text)
        what = "CuPy is for another CUDA than the one installed" if other else "CuPy cannot be imported"
        rule, write = "cupy-cuda", install
    elif caffe_cuda and found.get("cuda") not in (None, caffe_cuda):
        rule, write = "cupy-cuda", install
        what = f"CuPy is for CUDA {found['cuda']}, Caffe for CUDA {caffe_cuda}"
    elif found.get("computes"):
        return None
    elif not found.get("devices"):
        rule, what, write = "cupy-device", "CuPy finds no device that it can use", "a driver as new as CuPy's CUDA"
    else:
        rule, what, write = "cupy-device", "CuPy does not compute", install
    return Finding("warning", f"{what}; in GPU mode Python losses run on the CPU", write, detail=text, rule=rule)


describe(
    "Caffe and its Python module",
    {
        "caffe-missing": """
            What: this Python finds no Caffe, or finds something else of that name.
            Why: without pycaffe no net can be built from Python, nor a Python layer run.
            Write: run ``make`` in the clone of pylayers, or use the Python in which ``import caffe`` works. PyPI's
            package ``caffe`` is another project, and empty.
        """,
        "caffe-other-python": """
            What: Caffe's module is built for another version of Python.
            Why: it brings that version's library along; two interpreters in one process end in errors that do not say
            so.
            Write: run the Python that Caffe is built for, or build pycaffe for this one.
        """,
        "caffe-library": """
            What: a shared library that Caffe needs is not found.
            Why: the dynamic linker looks in the system's folders, in LD_LIBRARY_PATH and in the binary's run path.
            Write: ``LD_LIBRARY_PATH=...`` in the environment, or install the library's package.
        """,
        "caffe-protobuf": """
            What: Python's protobuf and the protoc or libprotobuf that Caffe is built with do not fit.
            Why: Caffe's Python files are made by protoc, and a protobuf that is much newer or older refuses them.
            Write: ``pip install -U protobuf`` where it is older, ``pip install 'protobuf<=3.20.3'`` where protoc is
            older than 3.19, or build Caffe again.
        """,
        "caffe-numpy": """
            What: Caffe's module is built with the headers of another NumPy.
            Why: NumPy 2 does not load modules that were built for NumPy 1.
            Write: build pycaffe again, with this NumPy's headers first.
        """,
        "caffe-dependency": """
            What: a Python package that pycaffe imports is missing.
            Why: ``import caffe`` imports six and protobuf, and in most builds scikit-image.
            Write: ``pip install`` the package that has it.
        """,
        "caffe-import": """
            What: ``import caffe`` fails in another way, hangs, or ends the process.
            Why: the finding shows what Python and Caffe wrote.
            Write: build Caffe again, if the message does not tell.
        """,
        "kit-shadowed": """
            What: another module or folder called ``pylayers``, which Python finds before the kit.
            Why: ``module: "pylayers"`` in a net is then that one, and has none of the kit's layers.
            Write: another name for it, or take its folder off PYTHONPATH.
        """,
        "python-layers": """
            What: a Caffe that is built without Python layers.
            Why: it does not know ``type: "Python"``.
            Write: CMake's ``-DBUILD_python_layer=ON``, or make's ``WITH_PYTHON_LAYER := 1``.
        """,
    },
)
describe(
    "GPU mode and CuPy",
    {
        "cpu-only-caffe": """
            What: GPU mode is wanted, and this Caffe is built for the CPU alone.
            Why: it ends with "Cannot use GPU in CPU-only Caffe".
            Write: ``solver_mode: CPU`` and no ``--gpu``, or build Caffe for CUDA.
        """,
        "gpu-device": """
            What: Caffe cannot use a GPU that is asked for.
            Why: there is none of that number, or the driver does not fit.
            Write: a GPU that nvidia-smi lists, or ``solver_mode: CPU``.
        """,
        "old-pycaffe": """
            What: GPU mode with a pycaffe that gives no addresses on the GPU.
            Why: they came in August 2018 (BVLC #6499); release 1.0 lacks them. The losses then run on the CPU, with the
            same results, and copy their blobs.
            Write: Caffe 99bd997, its last version, as ``make CAFFE=--cuda`` builds it.
        """,
        "cupy-missing": """
            What: GPU mode without CuPy.
            Why: the losses then run on the CPU, with the same results, and copy their blobs.
            Write: ``pip install cupy-cuda12x``, or ``cupy-cuda13x`` where Caffe's CUDA is 13.
        """,
        "cupy-cuda": """
            What: CuPy is for another CUDA than Caffe, or cannot be imported.
            Why: two CUDA runtimes of different versions do not share memory.
            Write: ``pip install`` the CuPy of Caffe's CUDA, and uninstall any other.
        """,
        "cupy-device": """
            What: CuPy finds no GPU that it can use, or does not compute there.
            Why: the driver may be older than CuPy's CUDA, or the compiler for its kernels is missing.
            Write: a driver as new as CuPy's CUDA, or the CuPy of Caffe's CUDA.
        """,
    },
)
