"""docker/image.sh and docker/Dockerfile: what can be known without building an image; `make image-test` does that."""

import os
import re
import shutil
import subprocess

import pytest
from harness import ROOT

SCRIPT = ROOT / "docker/image.sh"
STEP = ROOT / "docker/image_step.sh"
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
EXPECTED = "expected build cpu, build gpu, build caffe-test, test cpu or test gpu"


def image(*options, **environment):
    command = [shutil.which("bash"), str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], f"{EXPECTED}, not '' (see --help)"),
        (["build", "gpus"], f"{EXPECTED}, not 'build gpus' (see --help)"),
        (["test", "caffe-test"], f"{EXPECTED}, not 'test caffe-test' (see --help)"),
        (["build", "cpu", "--frob"], "unknown option '--frob' (see --help)"),
        (["build", "cpu", "--base"], "--base needs a value (see --help)"),
        (["build", "cpu", "--base", "x"], "--base takes debootstrap, not 'x'; --build-arg BASE=... names an image"),
        (["build", "cpu", "--ca", "no/file"], "--ca: no file 'no/file'"),
        (
            ["build", "cpu", "--base", "debootstrap", "--build-arg", "BASE=x"],
            "--base makes an image and --build-arg BASE names one; give one of them",
        ),
        (["build", "cpu", "--gpu"], "--gpu is for test; a build needs no GPU"),
        *(
            (
                ["build", "gpu", "--build-arg", value],
                f"--build-arg takes WITH_OPENCV=ON or OFF, CUDA_ARCH=\"80 90\", JOBS=4 or BASE=image, not '{value}'",
            )
            for value in ("CUDA_ARCHS=80", "CUDA_ARCH=sm_80", "BASE=", "WITH_OPENCV=yes", "JOBS=0")
        ),
    ],
)
def test_rejects_options(options, message):
    done = image(*options)
    assert done.returncode == 1
    assert done.stderr == f"image.sh: error: {message}\n"


def test_without_an_engine_it_says_what_to_install(tmp_path):
    for tool in ("dirname", "bash"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = image("build", "cpu", PATH=str(tmp_path))
    assert done.stderr == "image.sh: error: no Docker engine runs here, and there is no buildah; install either\n"


def test_help_has_an_example():
    done = image("--help")
    assert done.returncode == 0
    assert "example: docker/image.sh build gpu" in done.stdout


@pytest.mark.parametrize("value", ["yes", "", "1"])
def test_the_image_takes_opencv_on_or_off(value):
    environment = {**os.environ, "WITH_OPENCV": value, "JOBS": ""}
    done = subprocess.run(["bash", STEP, "caffe"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr == f"Dockerfile: error: --build-arg WITH_OPENCV takes ON or OFF, not '{value}'\n"


def test_every_build_argument_of_the_help_is_in_the_dockerfile():
    (accepted,) = re.findall(r"=~ \^\(([A-Z].*)\)\$ \]\]", SCRIPT.read_text())
    assert set(re.findall(r"([A-Z_]+)=", accepted)) == set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_change_of_the_kit_leaves_the_layers_below_alone(kind):
    steps = re.search(rf"^FROM runtime AS {kind}\n(.*?)^USER", DOCKERFILE, re.MULTILINE | re.DOTALL)[1]
    assert steps.index("/opt/caffe /opt/caffe") < steps.index("step.sh packages") < steps.index("COPY pylayers")
