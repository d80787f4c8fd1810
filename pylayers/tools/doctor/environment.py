"""`pylayers doctor`: Caffe, its Python module, its GPU mode and CuPy. Needs none of them, nor NumPy."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

# An import, or building a net, that takes longer hangs.
TIMEOUT = 120
_PROBE = Path(__file__).with_name("probe.py")


class Finding(NamedTuple):
    """One thing that is wrong, and what to do about it."""

    severity: str  # "error": it breaks, or does not do what it says; "warning": it may be meant
    found: str
    write: str  # the line to write instead, or the command to run; "" where what was found says it all
    file: Optional[str] = None
    line: Optional[int] = None
    layer: Optional[str] = None
    detail: str = ""  # a traceback
    rule: str = ""


class Answer(NamedTuple):
    """What came of a request to the probe."""

    found: Optional[dict]  # None where the process was ended
    log: str  # all that it wrote to stdout and stderr
    status: Optional[int]  # None where it hung

    @property
    def end(self):
        """How the process ended, in words, where there is no answer."""
        if self.status is None:
            return f"does not come to an end within {TIMEOUT} s"
        if self.status < 0:
            return f"ends the process with {signal.Signals(-self.status).name}"
        return f"ends the process with status {self.status}"


def ask(**request):
    """Has `pylayers.tools.doctor.probe` do something in a process of its own, with Caffe's log of it."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer, log = (Path(folder, name) for name in ("request.json", "answer.json", "log"))
        question.write_text(json.dumps(request), encoding="utf-8")
        with open(log, "wb") as written:
            process = subprocess.Popen(
                [sys.executable, _PROBE, question, answer],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                env={**os.environ, "GLOG_minloglevel": "0", "GLOG_logtostderr": "1"},
                start_new_session=True,
            )
            try:
                status = process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if process.poll() is None:  # it hangs, or the user has had enough
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        try:
            return Answer(json.loads(answer.read_text(encoding="utf-8")), text, status)
        except (FileNotFoundError, json.JSONDecodeError):
            return Answer(None, text, status)


# What a failed import of Caffe says: the rule, a pattern of the traceback or the log, what is wrong, what to do.
# The first that matches; {1} stands for the pattern's group.
_IMPORT_FAILURES = (
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
        r"Descriptors cannot (?:not )?be created directly|VersionError: Detected",
        "Python's protobuf is newer than the protoc that Caffe is built with",
        "pip install 'protobuf>=4.21,<4.22' for protoc 3.21",
    ),
    (
        "caffe-protobuf",
        r"cannot import name '\w+' from 'google\.protobuf|Couldn't build proto file",
        "Python's protobuf is older than the protoc that Caffe is built with",
        "pip install 'protobuf>=4.21,<4.22' for protoc 3.21",
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
        "build pycaffe again with this NumPy's headers first (docker/patches/numpy-headers-first.patch)",
    ),
    (
        "caffe-dependency",
        r"No module named '?([\w.]+)",
        "Caffe's Python module needs the package {1}",
        "pip install -r docker/requirements.txt in the clone of pylayers",
    ),
)
# In place of what the probe's `locate` finds, where it gives no answer: the import itself has more to say.
_NOT_LOCATED = {"folders": [], "binaries": [], "built_for": None}
_FACTS = ("caffe", "numpy", "numba", "protobuf", "cuda", "python_layers")


def check_caffe():
    """Imports Caffe in a child process.

    Returns:
        A dict of facts for JSON, and a list with what is wrong; nothing else can be checked where `is_usable` is
        false of the latter.
    """
    located, answer = ask(do="locate").found or _NOT_LOCATED, ask(do="environment")
    facts = {"executable": sys.executable, "python": platform.python_version(), "folders": located["folders"]}
    facts.update({name: (answer.found or {}).get(name) for name in _FACTS})
    failure = import_failure(located, answer)
    if failure:
        return facts, [failure]
    if not facts["python_layers"]:
        return facts, [
            _error(
                "python-layers",
                f"{_this_caffe(located)} is built without Python layers",
                "build it with CMake's -DBUILD_python_layer=ON or make's WITH_PYTHON_LAYER := 1, or run make in the "
                "clone of pylayers",
            )
        ]
    return facts, []


def _this_caffe(located):
    return f"the Caffe in {located['folders'][0]}" if located["folders"] else "this Caffe"


def is_usable(findings):
    """Whether Caffe can be imported, by what `check_caffe` found."""
    return all(finding.rule == "python-layers" for finding in findings)


def import_failure(located, answer):
    """What a failed import of Caffe means.

    Args:
        located: what the probe's `locate` found.
        answer: of the probe's `environment`.

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
            + (f"; the command caffe is {command}" if command else ""),
            "run make in the clone of pylayers, or the Python in which import caffe works, or put Caffe's folder "
            "python/ on PYTHONPATH",
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
        where = ", ".join(located["folders"]) or "a file named caffe.py"
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
    """A failure by its traceback and what else was written."""
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
    """The numbers of ``--gpu``; those that the driver knows for "all", or the first where it says nothing."""
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
        answer = ask(do="gpu", device=device)
        if answer.found is None:
            return [_gpu_failure(answer, device)._replace(**place)]
    caffe_cuda = answer.found["cuda"]
    answer = ask(do="cupy", device=gpus[0])
    finding = cupy_failure(answer, caffe_cuda)
    return [finding._replace(**place)] if finding else []


def _gpu_failure(answer, device):
    if "CPU-only Caffe" in answer.log:
        return _error(
            "cpu-only-caffe",
            "GPU mode, but this Caffe is built for the CPU alone: it ends with 'Cannot use GPU in CPU-only Caffe'",
            "solver_mode: CPU and no --gpu, or build Caffe for CUDA with make CAFFE=--cuda",
        )
    fatal = re.search(r"^F\d{4,8} [^\]]*\] (.*)", answer.log, re.MULTILINE)
    says = f"Caffe says: {fatal[1]}" if fatal else f"caffe.set_device({device}) {answer.end}"
    return _error(
        "gpu-device", f"GPU {device} cannot be used: {says}", "a GPU that nvidia-smi lists, or solver_mode: CPU"
    )


def cupy_failure(answer, caffe_cuda):
    """What is wrong with CuPy, where Caffe's GPU mode works.

    Args:
        answer: of the probe's `cupy`.
        caffe_cuda: the CUDA that Caffe uses, such as 12; None where it is not known.

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


RULES = (
    "caffe-missing",
    "caffe-other-python",
    "caffe-library",
    "caffe-protobuf",
    "caffe-numpy",
    "caffe-dependency",
    "caffe-import",
    "python-layers",
    "cpu-only-caffe",
    "gpu-device",
    "cupy-missing",
    "cupy-cuda",
    "cupy-device",
)
