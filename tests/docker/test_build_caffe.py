"""docker/build_caffe.sh: bad input ends in one line that says what to do, and leaves nothing behind."""

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import ROOT
from harness.build_script import SCRIPT, assert_fails, build


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-such-option"], "unknown option '--no-such-option' (see --help)"),
        (["--jobs"], "--jobs needs a value (see --help)"),
        (["--jobs", "0"], "--jobs takes a whole number from 1, not '0'"),
        (["--cuda-arch", "sm_90"], "--cuda-arch takes compute capabilities such as 80,90, not 'sm_90'"),
        (["--source", "no-such-file"], "--source: no file 'no-such-file'"),
        (["--python", "no-such-python"], "--python: 'no-such-python' is not a Python 3"),
        (["--python", "/bin/true"], "--python: '/bin/true' is not a Python 3"),
        (["--caffe-of", "no-such-python"], "--caffe-of: 'no-such-python' is not a Python 3"),
        (["--caffe-of", "/bin/ls"], "--caffe-of: '/bin/ls' is not a Python 3"),
        (["--with-cudnn"], "--with-cudnn is for the CUDA build; give --cuda, or leave it out"),
        (["--with-nccl"], "--with-nccl is for the CUDA build; give --cuda, or leave it out"),
        (["--cuda-arch", "90"], "--cuda-arch is for the CUDA build; give --cuda, or leave it out"),
        (["--wheel"], "--wheel needs a value (see --help)"),
        (["--wheel", "dist"], "--wheel installs nothing; leave --venv out"),
    ],
)
def test_rejects_options(options, message, tmp_path):
    assert_fails(build("--venv", tmp_path / "venv", *options), message)
    assert not list(tmp_path.iterdir())


def test_compiles_on_all_cores_whatever_the_losses_use():
    """The command nproc heeds OMP_NUM_THREADS, with which a user limits the threads of a loss."""
    cores = len(os.sched_getaffinity(0))
    done = build("--help", OMP_NUM_THREADS="1")
    assert f"compile jobs (default: the number of cores, {cores})" in done.stdout


def test_rejects_a_file_that_is_no_archive(tmp_path):
    tarball = tmp_path / "caffe.tar.gz"
    tarball.write_bytes(b"not Caffe")
    assert_fails(build("--venv", tmp_path / "venv", "--source", tarball), f"{tarball} is no whole tar.gz archive")
    assert list(tmp_path.iterdir()) == [tarball]


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Caffe's source as Debian has it, a folder with the tarball and its files."""
    folder = tmp_path_factory.mktemp("source")
    command = f"source {SCRIPT}; upstream=/no/such/place; fetch_source {folder}; tar -xzf $tarball -C {folder}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("Caffe's source package cannot be fetched here")
    return folder


def archive(source, path, change=None):
    """A tarball as upstream's web page gives it: all in one folder."""
    top = path.parent / "caffe-99bd997"
    shutil.copytree(source, top, ignore=shutil.ignore_patterns("*.tar.gz", "apt", "matlab", "docs", "data"))
    if change:
        change(top)
    subprocess.run(["tar", "-czf", path, "-C", path.parent, top.name], check=True)
    shutil.rmtree(top)
    return path


def unpack(tmp_path, before):
    (tmp_path / "work/source").mkdir(parents=True)
    command = f"source {SCRIPT}; {before}; unpack_source {tmp_path}/work"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True)


def test_takes_upstreams_archive_for_debians(source, tmp_path):
    """The files count, and not how they were packed."""
    path = archive(source, tmp_path / "upstream.tar.gz")
    done = unpack(tmp_path, f"tarball={path}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/source/python/caffe/pycaffe.py").is_file()


def test_rejects_an_archive_with_another_file(source, tmp_path):
    path = archive(source, tmp_path / "upstream.tar.gz", lambda top: (top / "src/caffe/net.cpp").write_text("int x;"))
    done = build("--venv", tmp_path / "venv", "--source", path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"build_caffe.sh: error: the files in {path} have the checksum ")
    assert line.endswith(": that of BVLC Caffe 99bd997")
    assert list(tmp_path.iterdir()) == [path]


def test_rejects_an_archive_of_something_else(tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "top/CMakeLists.txt").write_text("")
    path = tmp_path / "other.tar.gz"
    subprocess.run(["tar", "-czf", path, "-C", tmp_path, "top"], check=True)
    done = build("--venv", tmp_path / "venv", "--source", path)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"build_caffe.sh: error: the files in {path} have the checksum ")


@pytest.mark.parametrize("tool", ["git", "curl"])
def test_fetches_from_upstream_where_apt_has_no_source(tool, source, tmp_path):
    """From a server here: the real upstream is not asked."""
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")
    site = tmp_path / "site"
    (site / "archive").mkdir(parents=True)
    commit = "99bd99795dcdf0b1d3086a8d67ab1782a8a08383"
    if tool == "curl":
        archive(source, site / f"archive/{commit}.tar.gz")
    else:  # the same files, and so another commit
        for arguments in (
            ["init", "-q"],
            ["add", "-f", "."],
            ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"],
        ):
            tree = ["--git-dir", site / ".git", "--work-tree", source]
            subprocess.run(["git", *tree, *arguments], check=True, capture_output=True)
        commit = subprocess.run(
            ["git", "--git-dir", site / ".git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        subprocess.run(
            ["git", "--git-dir", site / ".git", "config", "uploadpack.allowAnySHA1InWant", "true"], check=True
        )
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    file = tmp_path / "docker/caffe/source.sh"
    file.write_text(file.read_text().replace("99bd99795dcdf0b1d3086a8d67ab1782a8a08383", commit))
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in (
        "bash",
        "tar",
        "gzip",
        "find",
        "sort",
        "xargs",
        "sha256sum",
        "cut",
        "cp",
        "mv",
        "mkdir",
        "tail",
        "patch",
        "basename",
        "dirname",
        "env",
        "nproc",
        tool,
    ):  # no apt-get
        (bin_folder / name).symlink_to(shutil.which(name))
    (tmp_path / "work/source").mkdir(parents=True)
    with server(site) as address:
        url = address if tool == "curl" else f"file://{site}"
        command = (
            f"source {tmp_path}/docker/build_caffe.sh; upstream={url}; "
            f"fetch_source {tmp_path}/work && unpack_source {tmp_path}/work"
        )
        environment = {**os.environ, "PATH": str(bin_folder)}
        done = subprocess.run([shutil.which("bash"), "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/source/tools/caffe.cpp").is_file()


def test_says_so_where_nobody_has_the_source(tmp_path):
    command = f"source {SCRIPT}; upstream={tmp_path}/nothing; apt-get() {{ false; }}; fetch_source {tmp_path}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        "build_caffe.sh: error: neither apt's archives (caffe=1.0.0+git20180821.99bd997-8 in bullseye) nor "
    )
    assert line.endswith("give the tarball with --source")


@contextlib.contextmanager
def server(folder):
    """Serves a folder's files on this machine; gives the address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_asks_the_archives_of_this_debian():
    """And no other that apt knows: neither of security nor of another distribution has Caffe's source."""
    codename = re.search(r"^VERSION_CODENAME=(.*)$", Path("/etc/os-release").read_text(), re.MULTILINE)[1]
    lines = f"""Debian {codename} http://a.example/debian/
        Debian {codename}-security http://a.example/security/
        Debian {codename} http://a.example/debian/
        Other {codename} http://b.example/"""
    command = f"source {SCRIPT}; apt-get() {{ printf '%s' '{lines}'; }}; archive_uris"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "http://a.example/debian/\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    locked = tmp_path / "locked"
    assert_fails(build("--wheel", locked), f"--wheel: cannot write to the folder '{locked}'")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    venv = tmp_path / "file/venv"
    assert_fails(build("--venv", venv), f"--venv: cannot write to the folder '{venv}'")
    assert_fails(build("--wheel", tmp_path / "file"), f"--wheel: cannot write to the folder '{tmp_path / 'file'}'")
    done = build("--wheel", tmp_path / "dist", XDG_CACHE_HOME=str(tmp_path / "file"))
    message = (
        f"cannot write to {tmp_path}/file/pylayers, where builds are kept; name another folder with XDG_CACHE_HOME"
    )
    assert_fails(done, message)


def test_a_disk_that_is_full(tmp_path):
    command = f"source {SCRIPT}; cache={tmp_path}; df() {{ printf 'Avail\\n  12\\n'; }}; build"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    message = f"{tmp_path} has 12 MB of disk free, a build takes 1000; make room, or name another folder with"
    assert_fails(done, f"{message} XDG_CACHE_HOME")
    assert not list(tmp_path.iterdir())


def test_an_environment_with_another_python(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("#!/bin/sh\necho 3.4\n")
    (tmp_path / "bin/python").chmod(0o755)
    (tmp_path / "pyvenv.cfg").touch()
    this = "{}.{}".format(*sys.version_info)
    message = f"--python is Python {this}, and {tmp_path} has Python 3.4; name another folder with --venv"
    assert_fails(build("--venv", tmp_path, "--python", sys.executable), message)


def test_keeps_what_is_in_a_virtual_environment_without_pip(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (tmp_path / "thesis.tex").write_text("years of work")
    command = ["bash", "-c", f"source {SCRIPT}; venv={tmp_path}; python={sys.executable}; make_venv"]
    subprocess.run(command, check=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    subprocess.run([tmp_path / "bin/python", "-m", "pip", "--version"], check=True)


def test_leaves_a_folder_that_is_no_virtual_environment_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    message = f"{tmp_path} is there and is not a virtual environment; name another folder with --venv"
    assert_fails(build("--venv", tmp_path), message)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_names_the_packages_that_it_may_not_install(tmp_path):
    # A dpkg-query that knows of no package, as on a fresh machine.
    (tmp_path / "dpkg-query").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "dpkg-query").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = build("--venv", tmp_path / "venv", "--no-apt", PATH=path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("build_caffe.sh: error: packages are missing; install them with: sudo apt-get install ")
    assert {"libboost-python-dev", "protobuf-compiler", "python3-venv"} <= set(line.split())


def test_stops_at_a_patch_that_does_not_apply(tmp_path):
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    patch = (ROOT / "docker/caffe/patches/skimage-as-gray.patch").read_text()
    (tmp_path / "docker/caffe/patches/zz-stale.patch").write_text(patch.replace("as_grey", "as_green"))
    done = build(
        "--venv", tmp_path / "venv", script=tmp_path / "docker/build_caffe.sh", XDG_CACHE_HOME=str(tmp_path / "cache")
    )
    if "give the tarball with --source" in done.stderr:
        pytest.skip("Caffe's source package cannot be fetched here")
    assert_fails(done, "docker/caffe/patches/zz-stale.patch does not apply")
    assert not (tmp_path / "venv").exists()
    assert not list((tmp_path / "cache/pylayers").iterdir())


def test_uses_the_caffe_that_a_python_already_has(tmp_path):
    done = build("--venv", tmp_path / "venv", "--caffe-of", sys.executable)
    assert done.returncode == 0, done.stderr
    assert f"using the Caffe that {sys.executable} already has" in done.stdout
    code = "import caffe; print(caffe.__path__[0])"
    paths = [
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for python in (sys.executable, tmp_path / "venv/bin/python")
    ]
    assert paths[0] == paths[1]
    assert not Path(paths[0]).is_relative_to(tmp_path)
    if (Path(sys.prefix) / "bin/caffe").exists():
        version = subprocess.run([tmp_path / "venv/bin/caffe", "--version"], capture_output=True, text=True, check=True)
        assert version.stdout == "caffe version 1.0.0\n"


@pytest.mark.skipif("PYTHONPATH" in os.environ, reason="PYTHONPATH comes before what lies in an environment")
def test_an_environment_with_another_caffe_is_left_as_it_is(tmp_path):
    """The folder of another Caffe comes first in the virtual environment; the user's must not be mixed with it."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "caffe").mkdir()
    (site / "caffe/__init__.py").write_text("")
    done = build("--venv", tmp_path / "venv", "--caffe-of", sys.executable)
    assert done.returncode == 1
    assert f"finds another Caffe ({site / 'caffe'}) than {sys.executable}" in done.stderr
    assert not (site / "existing-caffe.pth").exists()


def test_a_python_without_caffe_is_not_given_one(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    (site / "caffe").mkdir()
    (site / "caffe/__init__.py").write_text("import no_such_library\n")
    python = tmp_path / "bare/bin/python"
    message = (
        f"--caffe-of: {python} has no Caffe with Python layers "
        "(ModuleNotFoundError: No module named 'no_such_library'); leave --caffe-of out to have one built"
    )
    assert_fails(build("--venv", tmp_path / "venv", "--caffe-of", python, PYTHONPATH=""), message)
    assert not (tmp_path / "venv").exists()


def test_a_python_of_the_virtual_environment_itself_changes_nothing(tmp_path):
    first = build("--venv", tmp_path / "venv", "--caffe-of", sys.executable)
    (paths,) = (tmp_path / "venv").glob("lib/python*/site-packages/existing-caffe.pth")
    before = paths.read_text()
    second = build("--venv", tmp_path / "venv", "--caffe-of", tmp_path / "venv/bin/python")
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert paths.read_text() == before


def installed():
    """The file in which pip has written down the wheel of this clone's environment."""
    return next((ROOT / ".venv").glob("lib/python*/site-packages/bvlc_caffe-*.dist-info/direct_url.json"), None)


def has_fresh_build():
    make = shutil.which("make") and subprocess.run(["make", "-q", ".venv/.caffe"], cwd=ROOT, capture_output=True)
    return make and make.returncode == 0 and installed()


@pytest.mark.skipif(not has_fresh_build(), reason="this clone has no Caffe of its own, or one from older files")
def test_second_run_does_nothing():
    before = installed().stat().st_mtime
    done = build()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "==> Caffe is up to date in .venv\n"
    assert installed().stat().st_mtime == before


@pytest.mark.parametrize(("build", "expected"), [("caffe-1", True), ("caffe-2", False), (None, False)])
def test_an_environment_is_up_to_date_as_long_as_pip_says_so(build, expected, tmp_path):
    if build:
        info = tmp_path / "lib/python3.11/site-packages/bvlc_caffe-1.0.0.post1+cu12.dist-info"
        info.mkdir(parents=True)
        (info / "direct_url.json").write_text(f'{{"url": "file:///home/me/.cache/pylayers/{build}/bvlc_caffe.whl"}}')
    command = f"source {SCRIPT}; venv={tmp_path} built=/elsewhere/caffe-1; is_installed"
    assert (subprocess.run(["bash", "-c", command]).returncode == 0) == expected


def test_a_wheel_that_does_not_fit_leaves_nothing(tmp_path):
    """What is there under its name is whole."""
    (tmp_path / "caffe-1").mkdir()
    (tmp_path / "caffe-1/a.whl").write_text("a wheel")
    (tmp_path / "dist").mkdir()
    full = 'cp() { echo half >"$2"; return 1; }'
    command = f"source {SCRIPT}; {full}; wheel_folder={tmp_path}/dist built={tmp_path}/caffe-1; put_wheel"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert_fails(done, f"cannot write a.whl to {tmp_path}/dist")
    assert not list((tmp_path / "dist").iterdir())


# nvcc as it answers on other machines; what the real one does is for a build with --cuda to tell.
NVCC = """#!/bin/sh
case "$*" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.99" ;;
  --list-gpu-arch) echo compute_80; echo compute_90 ;;
  *-ccbin*) {compiles} ;;
esac
"""


@pytest.mark.parametrize(
    ("release", "compiles", "options", "message"),
    [
        ("11.8", "true", [], "CUDA 11.8 is not supported; put the nvcc of CUDA 12 or 13 on PATH"),
        (
            "12.4",
            "true",
            ["--cuda-arch", "80 120"],
            "CUDA 12.4 has no compute capability 120; give --cuda-arch some of: 80 90",
        ),
        (
            "12.4",
            "false",
            ["--cuda-arch", "80", "--cuda-host-compiler", "g++"],
            r"CUDA 12.4 does not take --cuda-host-compiler g\+\+ \([0-9.]+\); name an older g\+\+, or none "
            "to have one found",
        ),
        (
            "12.4",
            "false",
            ["--cuda-arch", "80"],
            r"CUDA 12.4 takes none of the installed g\+\+; install an older one, or name one with --cuda-host-compiler",
        ),
        (
            "12.4",
            "true",
            ["--cuda-arch", "80", "--cuda-host-compiler", "g++-1"],
            r"CUDA 12.4 does not take --cuda-host-compiler g\+\+-1 \(no GCC\); name an older g\+\+, or none "
            "to have one found",
        ),
        (
            "13.9",
            'case "$*" in *" -") false ;; esac',
            ["--cuda-arch", "80"],
            "this CUDA 13.9 lacks the headers of cuBLAS or cuRAND; "
            r"install them \(for CUDA 13.0 alone they come from PyPI\)",
        ),
    ],
)
def test_says_what_is_wrong_with_cuda(release, compiles, options, message, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(NVCC.format(release=release, compiles=compiles))
    nvcc.chmod(0o755)
    words = " ".join(f"'{option}'" for option in ["--cuda", *options])
    command = f"source {SCRIPT}; parse_arguments --venv {tmp_path / 'venv'} {words}; check_cuda"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert re.fullmatch(f"build_caffe.sh: error: {message}\n", done.stderr), done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_cpp_tests_are_for_the_cpu_build(tmp_path):
    message = "--cpp-tests is for the CPU build; leave --cuda out"
    assert_fails(build("--venv", tmp_path / "venv", "--cuda", "--cpp-tests"), message)
