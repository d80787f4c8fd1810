"""docker/build_caffe.sh --bundle: what it refuses, what it packs, and tests/gpu/run_bundle.sh, which unpacks it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT
from harness.build_script import SCRIPT, assert_fails, build

RUN = ROOT / "tests/gpu/run_bundle.sh"
PYTHON = "{}.{}".format(*sys.version_info)
COMMAND = Path(sys.prefix) / "libexec/caffe.so"

needs_a_build = pytest.mark.skipif(
    not COMMAND.exists() or shutil.which("patchelf") is None,
    reason="this takes patchelf, and a Caffe that docker/build_caffe.sh has built",
)


def run(*command, **environment):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )


def functions(text):
    """Runs functions of the script."""
    return run("bash", "-c", f"source {SCRIPT}; {text}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    done = build("--bundle", tmp_path / "locked/caffe.tar.xz", "--venv", tmp_path / "venv")
    assert_fails(done, f"--bundle: cannot write to the folder '{tmp_path / 'locked'}'")


def test_a_folder_in_the_bundles_place(tmp_path):
    (tmp_path / "caffe.tar.xz").mkdir()
    done = build("--bundle", tmp_path / "caffe.tar.xz", "--venv", tmp_path / "venv")
    assert_fails(done, f"--bundle: '{tmp_path / 'caffe.tar.xz'}' is a folder")


def test_an_environment_with_another_python(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("#!/bin/sh\necho 2.7\n")
    (tmp_path / "bin/python").chmod(0o755)
    (tmp_path / "pyvenv.cfg").touch()
    done = build("--bundle", tmp_path / "caffe.tar.xz", "--venv", tmp_path, "--python", sys.executable)
    message = f"--python is Python {PYTHON}, and {tmp_path} has Python 2.7; name another folder with --venv"
    assert_fails(done, message)


@pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not on PATH")
def test_a_bundle_that_is_too_large_leaves_nothing(tmp_path):
    """And the one that is there stays."""
    (tmp_path / "caffe.tar.xz").write_text("an older bundle")
    fill = 'fill_bundle() { mkdir "$1"; head -c 5000 /dev/urandom >"$1/file"; }'
    done = functions(f"{fill}; bundle={tmp_path}/caffe.tar.xz; bundle_limit=4000; pack_bundle")
    assert done.returncode == 1
    message = r"build_caffe.sh: error: the bundle has 5\d\d\d bytes, more than 4000; give fewer architectures"
    assert re.match(message, done.stderr), done.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an older bundle"]


@needs_a_build
def test_a_bundle_needs_no_other_library(tmp_path):
    tree = tmp_path / "caffe"
    done = functions(f"venv={sys.prefix}; fill_bundle {tree}")
    assert done.returncode == 0, done.stderr
    code = "import caffe; print(caffe.__file__); print(open('/proc/self/maps').read())"
    done = run(sys.executable, "-c", code, PYTHONPATH=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tree}/__init__.py\n")
    libraries = set(re.findall(r"/\S*/(lib(?:caffe|boost|protobuf|glog|hdf5|openblas)\S*\.so\S*)", done.stdout))
    mapped = {path for path in re.findall(r"/\S+\.so\S*", done.stdout) if Path(path).name in libraries}
    assert len(mapped) >= 6
    assert all(Path(path).is_relative_to(tree) for path in mapped)
    for text in ("Python: ", "System: any Linux with glibc 2."):
        assert text in (tree / "README.txt").read_text()


@needs_a_build
def test_the_command_of_a_bundle(tmp_path):
    functions(f"venv={sys.prefix}; fill_bundle {tmp_path / 'caffe'}")
    caffe = tmp_path / "caffe/bin/caffe"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert run(caffe, "--version", PATH=path).stdout == "caffe version 1.0.0\n"


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"PYTHON": "2.7"}, f"this Caffe is built for Python 2.7, and this is {sys.version.split()[0]}"),
        ({"CUDA_LIBRARIES": "libno-such.so.13"}, "this Caffe needs libno-such.so.13: install NVIDIA's packages"),
    ],
)
def test_a_bundle_says_what_it_lacks(constants, message, tmp_path):
    constants = {"PYTHON": PYTHON, "CUDA_LIBRARIES": "", **constants}
    text = (ROOT / "docker/bundle/libraries.py").read_text()
    for name, value in constants.items():
        text = text.replace(f"@{name}@", value)
    (tmp_path / "libraries.py").write_text(text)
    done = run(sys.executable, tmp_path / "libraries.py")
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {message}")


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_finds_cudas_libraries_in_nvidias_packages(tmp_path):
    """As a wheel puts them beside other packages; here a library of another name stands for them."""
    folder = tmp_path / "nvidia/cu13/lib"
    folder.mkdir(parents=True)
    assert run("c++", "-shared", "-x", "c++", "/dev/null", "-o", folder / "libno-such.so.13").returncode == 0
    text = (ROOT / "docker/bundle/libraries.py").read_text().replace("@PYTHON@", PYTHON)
    (tmp_path / "libraries.py").write_text(text.replace("@CUDA_LIBRARIES@", "libno-such.so.13"))
    done = run(sys.executable, tmp_path / "libraries.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: tests/gpu/run_bundle.sh BUNDLE.tar.xz OUT (PYTHON names another Python than python3)"),
        (["no-such-file", "{folder}/out"], "no file 'no-such-file'"),
        ([RUN, "/dev/null/out"], "cannot write to the folder '/dev/null/out'"),
        ([RUN, "{folder}/out"], f"{RUN} does not unpack"),
    ],
)
def test_run_bundle_says_what_is_wrong(arguments, message, tmp_path):
    done = run(RUN, *[str(argument).format(folder=tmp_path) for argument in arguments])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"run_bundle.sh: error: {message}"
