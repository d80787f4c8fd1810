"""The wheel of Caffe that this environment has, its commands, and tests/gpu/run_wheel.sh, which installs one."""

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import ROOT
from harness.build_script import SCRIPT

RUN = ROOT / "tests/gpu/run_wheel.sh"
LIBRARIES = (ROOT / "docker/caffe/wheel/bvlc_caffe/libraries.py").read_text()

try:
    WHEEL = importlib.metadata.distribution("bvlc-caffe")
except importlib.metadata.PackageNotFoundError:
    WHEEL = None
needs_the_wheel = pytest.mark.skipif(
    WHEEL is None, reason="this Caffe is no wheel that docker/build_caffe.sh has built"
)


def run(*command, cwd=ROOT, **environment):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}
    )


def command(name):
    return Path(sys.prefix) / "bin" / name


@needs_the_wheel
def test_what_the_wheel_says_of_itself():
    assert re.fullmatch(r"1\.0\.0\.post\d+(\+(cu12|cu13|opencv)(\.opencv)?)?", WHEEL.version)
    assert re.search(r"^Tag: cp3\d+-cp3\d+-manylinux_2_\d+_x86_64$", WHEEL.read_text("WHEEL"), re.MULTILINE)
    names = {path.name for path in WHEEL.files if "licenses" in path.parts}
    assert {"caffe", "LGPL-3"} <= names
    packages = " ".join(names)
    for library in ("boost", "gmp", "gfortran", "google-glog", "hdf5", "nettle", "openblas", "protobuf", "ssl"):
        assert f"lib{library}" in packages
    needs = "\n".join(WHEEL.requires)
    assert not re.search(r"scikit-image$|pydot$", needs, re.MULTILINE)  # extras alone


@needs_the_wheel
def test_the_wheel_brings_its_libraries():
    code = "import caffe; print(open('/proc/self/maps').read())"
    maps = run(sys.executable, "-c", code).stdout
    loaded = {Path(path) for path in re.findall(r"/\S+\.so\S*", maps)}
    (folder,) = {path.parent for path in loaded if path.name.startswith("libcaffe")}
    needed = re.compile(r"lib(caffe|boost_python|protobuf|glog|hdf5|lmdb|leveldb)")
    found = [path for path in loaded if needed.match(path.name) and "h5py" not in str(path)]
    assert len(found) >= 7
    assert {path.parent for path in found} == {folder}
    assert folder.name == "bvlc_caffe.libs"
    assert not any("libpython" in path.name for path in loaded if "bvlc" in str(path))


@needs_the_wheel
@pytest.mark.parametrize("entry", WHEEL.entry_points if WHEEL else [], ids=lambda entry: entry.name)
def test_each_command_starts(entry, tmp_path):
    done = run(command(entry.name), cwd=tmp_path)
    # The tools end with 1 and their usage; caffe shows its flags.
    assert re.search(
        rf"usage: {entry.name}|{entry.name} .*(input|in_file|FLAGS|LISTFILE|DB)", done.stdout + done.stderr, re.I
    )
    assert done.returncode in (0, 1)
    assert not list(tmp_path.iterdir())


@needs_the_wheel
def test_a_net_of_an_old_caffe_is_upgraded(tmp_path):
    old = (
        'input: "data" input_dim: 1 input_dim: 2 input_dim: 1 input_dim: 1\n'
        'layers { name: "p" type: POWER bottom: "data" top: "p" }'
    )
    (tmp_path / "old.prototxt").write_text(old)
    done = run(command("upgrade_net_proto_text"), "old.prototxt", "new.prototxt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'type: "Power"' in (tmp_path / "new.prototxt").read_text()


@needs_the_wheel
def test_the_commands_exit_status(tmp_path):
    """0 for a run that ends well, 1 for a Python layer's exception, and a signal where Caffe gives up."""
    layer = 'layer { name: "loss" type: "Python" top: "t" python_param { module: "mine" layer: "Mine" } }'
    (tmp_path / "net.prototxt").write_text(layer)
    (tmp_path / "mine.py").write_text(
        "import caffe\nclass Mine(caffe.Layer):\n    def setup(self, bottom, top): raise RuntimeError('wrong')\n"
    )
    time_it = [command("caffe"), "time", "--model=net.prototxt"]
    done = run(*time_it, cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: wrong" in done.stderr
    assert run(command("caffe"), "--version").returncode == 0
    assert run(command("caffe"), "time", "--model=none.prototxt").returncode == -signal.SIGABRT
    # The current folder is not among those that Python searches.
    assert "No module named 'mine'" in run(*time_it, cwd=tmp_path, PYTHONPATH="").stderr


@needs_the_wheel
def test_ctrl_c_at_caffe_train(tmp_path):
    """It stops after the iteration and writes a snapshot, as Caffe's own command does."""
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "d" top: "t" dummy_data_param { shape { dim: 4 dim: 5 } } }'
        'layer { name: "p" type: "InnerProduct" bottom: "d" top: "p" inner_product_param { num_output: 5 } }'
        'layer { name: "l" type: "EuclideanLoss" bottom: "p" bottom: "t" }'
    )
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 50000000 display: 1000 snapshot_prefix: "s"'
    )
    train = [command("caffe"), "train", "--solver=solver.prototxt"]
    environment = {**os.environ, "GLOG_minloglevel": "0", "GLOG_logtostderr": "1"}
    with subprocess.Popen(train, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if "Iteration 1000" in line:
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Optimization stopped early" in log
    assert list(tmp_path.glob("s_iter_*.caffemodel"))


@needs_the_wheel
def test_a_command_says_which_library_it_lacks(tmp_path):
    shutil.copytree(Path(WHEEL.locate_file("bvlc_caffe")), tmp_path / "bvlc_caffe")  # and not what it needs
    code = "import sys; sys.argv = ['caffe', '--version']; from bvlc_caffe.commands import caffe; caffe()"
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"caffe: error: lib\S+: cannot open shared object file: No such file or directory\n", done.stderr
    )


def filled(folder, needed):
    """The module that loads CUDA's libraries, as the build fills it in, in a folder."""
    path = folder / "libraries.py"
    path.write_text(LIBRARIES.replace("@NEEDED@", needed).replace("@EXTRA@", "cuda13"))
    return path


def test_the_wheel_says_which_library_it_lacks(tmp_path):
    done = run(sys.executable, filled(tmp_path, "libno-such.so.13"))
    message = "ImportError: this Caffe needs libno-such.so.13: pip install 'bvlc-caffe[cuda13]', which brings NVIDIA's"
    assert done.stderr.splitlines()[-1].startswith(message)


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("place", ["package", "LD_LIBRARY_PATH"])
def test_finds_cudas_libraries(place, tmp_path):
    """In NVIDIA's packages, which lie beside others, and where the user says; another library stands for them."""
    folder = tmp_path / ("nvidia/cu13/lib" if place == "package" else "elsewhere")
    folder.mkdir(parents=True)
    assert run("c++", "-shared", "-x", "c++", "/dev/null", "-o", folder / "libno-such.so.13").returncode == 0
    environment = {} if place == "package" else {"LD_LIBRARY_PATH": str(folder)}
    done = run(sys.executable, filled(tmp_path, "libno-such.so.13"), **environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "expected"),
    [("", ""), ("with_opencv=ON", "opencv"), ("cuda=1 cuda_version=13.0", "cu13"),
     ("cuda=1 cuda_version=12.4 with_opencv=ON", "cu12.opencv")],
)  # fmt: skip
def test_wheels_of_one_project_are_told_apart(settings, expected):
    done = run("bash", "-c", f"source {SCRIPT}; {settings or 'true'}; local_version")
    assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: tests/gpu/run_wheel.sh WHEEL OUT (PYTHON names another Python than python3)"),
        (["no-such-file", "{folder}/out"], "no file 'no-such-file'"),
        ([RUN, "/dev/null/out"], "cannot write to the folder '/dev/null/out'"),
        ([RUN, "{folder}/out"], f"{RUN} does not install in {sys.executable}"),
    ],
)
def test_run_wheel_says_what_is_wrong(arguments, message, tmp_path):
    done = run(RUN, *[str(argument).format(folder=tmp_path) for argument in arguments], PYTHON=sys.executable)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"run_wheel.sh: error: {message}"
