#!/usr/bin/env bash
# Builds BVLC Caffe (pycaffe with Python layers, and its commands) as a wheel, and installs that with pip.
# The same script serves the native build and docker/Dockerfile; see usage() below. It reads docker/caffe/.
set -euo pipefail

# Without the current folder, which may have another caffe.
readonly IMPORT_CAFFE='import sys; sys.path = [folder for folder in sys.path if folder]; import caffe'
readonly CAFFE_FOLDER="$IMPORT_CAFFE; print(caffe.__path__[0])"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly here

venv=
wheel_folder=
python=/usr/bin/python3 # the one that Debian's Boost.Python is built for
python_given=
existing=
for_cuda= # an option that needs --cuda
jobs=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # nproc heeds them, and they are no property of the machine
use_apt=1
with_opencv=OFF
cpp_tests=
cache=${XDG_CACHE_HOME:-~/.cache}/pylayers
# shellcheck source=docker/caffe/source.sh
. "$here/caffe/source.sh"
# shellcheck source=docker/caffe/cuda.sh
. "$here/caffe/cuda.sh"
# shellcheck source=docker/caffe/boost_python.sh
. "$here/caffe/boost_python.sh"
# shellcheck source=docker/caffe/wheel.sh
. "$here/caffe/wheel.sh"

usage() {
  cat <<EOF
usage: docker/build_caffe.sh [options]

Builds BVLC Caffe 99bd997 as a wheel and installs it into a virtual environment. A finished wheel is
kept in ~/.cache/pylayers and used again.

  --venv DIR            virtual environment, made if need be (default: .venv)
  --wheel DIR           put the wheel into this folder, and install nothing
  --python EXE          the Python to build for (default: $python)
  --caffe-of EXE        a Python that imports Caffe already: link that one into --venv, build nothing
  --source FILE         Caffe's source tarball (default: fetched as Debian's source package,
                        or where this machine's archive has none, from upstream)
  --upstream URL        where upstream is (default: $upstream)
  --with-opencv         build the layers and tools that read images through OpenCV
  --cuda                build for CUDA (default: CPU only)
  --cuda-arch LIST      compute capabilities, PTX for the last (default: ${cuda_arch// /,})
  --with-cudnn          with --cuda: take the layers that NVIDIA's cuDNN has from there (1000 MB more to install)
  --with-nccl           with --cuda: build what averages the gradients of several GPUs (300 MB more to install)
  --cuda-host-compiler EXE   the C++ compiler that nvcc calls (default: one that it takes)
  --cpp-tests           also build Caffe's C++ tests of losses, layers, net and solver, and run them
  --jobs N              compile jobs (default: the number of cores, $jobs)
  --no-apt              install no packages, name the missing ones
  -h, --help            this text

example: docker/build_caffe.sh --venv ~/caffe && . ~/caffe/bin/activate && caffe --version
EOF
}

step() { printf '==> %s\n' "$*"; }
die() {
  printf 'build_caffe.sh: error: %s\n' "$*" >&2
  exit 1
}

parse_arguments() {
  while (($#)); do
    case $1 in
      --venv | --wheel | --python | --caffe-of | --source | --upstream | --cuda-arch | --cuda-host-compiler | --jobs)
        (($# > 1)) && [[ -n $2 ]] || die "$1 needs a value (see --help)"
        ;;&
      --venv) venv=$2 && shift 2 ;;
      --wheel) wheel_folder=$2 && shift 2 ;;
      --python) python=$2 && python_given=1 && shift 2 ;;
      --caffe-of) existing=$2 && shift 2 ;;
      --source) tarball=$2 && shift 2 ;;
      --upstream) upstream=${2%/} && shift 2 ;;
      --cuda-arch) for_cuda=$1 cuda_arch=${2//,/ } && shift 2 ;;
      --cuda-host-compiler) for_cuda=$1 cuda_host_compiler=$2 && shift 2 ;;
      --jobs) jobs=$2 && shift 2 ;;
      --with-opencv) with_opencv=ON && shift ;;
      --with-cudnn) for_cuda=$1 with_cudnn=ON && shift ;;
      --with-nccl) for_cuda=$1 with_nccl=ON && shift ;;
      --cuda) cuda=1 && shift ;;
      --cpp-tests) cpp_tests=1 && shift ;;
      --no-apt) use_apt= && shift ;;
      -h | --help) usage && exit ;;
      *) die "unknown option '$1' (see --help)" ;;
    esac
  done
  check_arguments
}

check_arguments() {
  [[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs takes a whole number from 1, not '$jobs'"
  [[ $cuda_arch =~ ^[0-9]{2,3}(\ [0-9]{2,3})*$ ]] ||
    die "--cuda-arch takes compute capabilities such as 80,90, not '${cuda_arch// /,}'"
  [[ -z $for_cuda || -n $cuda ]] || die "$for_cuda is for the CUDA build; give --cuda, or leave it out"
  [[ -z $cpp_tests || -z $cuda ]] || die "--cpp-tests is for the CPU build; leave --cuda out"
  [[ -z $wheel_folder || -z $venv ]] || die "--wheel installs nothing; leave --venv out"
  [[ -z $wheel_folder || -z $existing ]] || die "--caffe-of builds no wheel; leave --wheel out"
  [[ -n $wheel_folder ]] || venv=${venv:-.venv}
  [[ -z $venv || ! -e $venv || -f $venv/pyvenv.cfg || -z $(ls -A "$venv") ]] ||
    die "$venv is there and is not a virtual environment; name another folder with --venv"
  [[ -z $venv ]] || is_writable "$venv" || die "--venv: cannot write to the folder '$venv'"
  [[ -z $wheel_folder ]] || can_write "$wheel_folder" || die "--wheel: cannot write to the folder '$wheel_folder'"
  [[ -z $python_given ]] || version_of "$python" >/dev/null || die "--python: '$python' is not a Python 3"
  [[ -z $tarball ]] || check_tarball
}

can_write() { mkdir -p "$1" 2>/dev/null && [[ -w $1 ]]; }

# The same without making it.
is_writable() { if [[ -e $1 ]]; then [[ -d $1 && -w $1 ]]; else is_writable "$(dirname "$1")"; fi; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null | grep -x '3\.[0-9]*'; }

# ---- A Caffe that is already there

has_caffe() {
  "$1" -c "$IMPORT_CAFFE"'; sys.exit("Python" not in caffe.layer_type_list())' >/dev/null 2>&1
}

why_no_caffe() {
  "$existing" -c "$IMPORT_CAFFE; print('its Caffe was built without them')" 2>&1 | tail -n 1
}

# Makes the virtual environment see every folder that the user's Python imports from. The user's
# own environment is left as it is: the kit and its test tools go into the virtual environment.
link_existing_caffe() {
  local folder found paths
  version_of "$existing" >/dev/null || die "--caffe-of: '$existing' is not a Python 3"
  existing=$(command -v "$existing")
  has_caffe "$existing" ||
    die "--caffe-of: $existing has no Caffe with Python layers ($(why_no_caffe)); leave --caffe-of out to have one built"
  folder=$("$existing" -c "$CAFFE_FOLDER" 2>/dev/null)
  step "using the Caffe that $existing already has: $folder"
  [[ $("$existing" -c 'import os, sys; print(os.path.realpath(sys.prefix))') != $(readlink -f "$venv") ]] || return 0
  python=$existing
  make_venv
  paths=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/existing-caffe.pth
  "$existing" - <<'EOF' >"$paths"
import os, sys, sysconfig
standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
for folder in map(os.path.abspath, filter(os.path.isdir, sys.path[1:])):
    if folder not in standard and os.path.basename(folder) != "lib-dynload":
        print(f"import site; site.addsitedir({folder!r})")
EOF
  found=$("$venv/bin/python" -c "$CAFFE_FOLDER" 2>/dev/null || echo none)
  if [[ $found != "$folder" ]]; then
    rm "$paths"
    die "$venv finds another Caffe ($found) than $existing ($folder); remove $venv or name another with --venv"
  fi
  link_existing_command "$folder"
}

# The caffe command that belongs to the folder $1 of pycaffe, started so that it finds what is in the virtual
# environment: the wheel's runs in its Python, and a binary takes the packages beside the first python3 on PATH.
link_existing_command() {
  local command link=$venv/bin/caffe
  if "$venv/bin/python" -c 'import bvlc_caffe' 2>/dev/null; then
    printf '#!%s\nimport sys\nfrom bvlc_caffe.commands import caffe\nsys.exit(caffe())\n' "$(readlink -f "$venv")/bin/python" >"$link"
    chmod +x "$link"
    return
  fi
  for command in "$(dirname "$existing")/caffe" "$1"/../../{build/tools,bin}/caffe; do
    [[ -x $command ]] || continue
    command=$(readlink -f "$command")
    step "and its command $command"
    # shellcheck disable=SC2016  # the caller's PATH
    printf '#!/bin/sh\nPATH="%s:$PATH" exec "%s" "$@"\n' "$(readlink -f "$venv")/bin" "$command" >"$link"
    chmod +x "$link"
    return
  done
}

# ---- Debian's packages

packages() {
  printf '%s\n' g++ make cmake patch ca-certificates python3-dev python3-venv \
    libboost-{system,thread,filesystem,python}-dev libprotobuf-dev protobuf-compiler \
    libgoogle-glog-dev libgflags-dev libhdf5-dev liblmdb-dev libleveldb-dev libsnappy-dev \
    libopenblas-dev binutils graphviz
  [[ $with_opencv == OFF ]] || echo libopencv-dev
  # A toolkit of NVIDIA's own on PATH is as good as Debian's.
  [[ -z $cuda ]] || command -v nvcc >/dev/null || echo nvidia-cuda-toolkit
}

missing_packages() {
  local package
  for package in $(packages); do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

install_packages() {
  if ! command -v apt-get >/dev/null; then
    step "no apt-get here; Caffe needs what Debian calls: $(packages | xargs)"
    return
  fi
  local missing sudo=()
  missing=$(missing_packages | xargs)
  [[ -n $missing ]] || return 0
  local advice="install them with: sudo apt-get install --no-install-recommends $missing"
  [[ -n $use_apt ]] || die "packages are missing; $advice"
  if ((EUID)); then
    command -v sudo >/dev/null || die "packages are missing and there is no sudo; as root, $advice"
    sudo=(sudo)
  fi
  step "installing Debian packages: $missing"
  "${sudo[@]}" apt-get update -q || die "apt-get update failed; $advice"
  # shellcheck disable=SC2086  # one word a package
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing ||
    die "apt-get could not install the packages; $advice"
}

# ---- The wheel, and its place

# The Python to build for: that of an environment which is there, as it stays.
choose_python() {
  local found given
  found=$(version_of "$python") || die "--python: '$python' is not a Python 3"
  python=$(command -v "$python")
  [[ -n $venv && -x $venv/bin/python ]] || return 0
  python=$venv/bin/python
  given=$(version_of "$python") || die "the Python of $venv does not run; remove $venv or name another folder with --venv"
  [[ -z $python_given || $given == "$found" ]] ||
    die "--python is Python $found, and $venv has Python $given; name another folder with --venv"
}

make_venv() {
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  step "making the virtual environment $venv from $python"
  # Over an environment that lacks something this adds it; no file of the user's is removed.
  "$python" -m venv "$venv" || die "$python -m venv failed (Debian's package python3-venv has what it needs)"
}

# What a build depends on, as text; its checksum names the build in the cache.
build_inputs() {
  echo "$CAFFE_SHA256 opencv=$with_opencv cudnn=$with_cudnn nccl=$with_nccl cuda=$cuda $cuda_arch $cuda_host_compiler tests=$cpp_tests $(uname -m)"
  [[ -z $cuda ]] || nvcc --version
  "$python" -c 'import sys; print(sys.implementation.cache_tag, sys.base_prefix)'
  cat "$here/build_caffe.sh"
  find "$here/caffe" -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 cat
  if command -v dpkg-query >/dev/null; then
    packages | xargs dpkg-query -W 2>/dev/null || true # a package may be missing
  else
    cat /etc/os-release
  fi
}

# Sets built to the folder with the wheel and Caffe's own tests.
build() {
  built=$cache/caffe-$(build_inputs | sha256sum | cut -c 1-16)
  [[ ! -d $built ]] || return 0
  local free needed=$((${cuda:-0} ? 4000 : 1000)) # MB, while it builds
  can_write "$cache" || die "cannot write to $cache, where builds are kept; name another folder with XDG_CACHE_HOME"
  cache=$(realpath "$cache") built=$cache/$(basename "$built")
  # What builds that were killed have left behind; none takes ten hours.
  find "$cache" -maxdepth 1 -name 'build.*' -mmin +600 -exec rm -rf {} +
  free=$(df --output=avail -m "$cache" | tail -n 1)
  ((free >= needed)) || die "$cache has $((free)) MB of disk free, a build takes $needed; make room, or name another folder with XDG_CACHE_HOME"
  build_into "$built"
}

# pip writes down which file it has installed, when all of it is there.
is_installed() { grep -qs "/$(basename "$built")/" "$venv"/lib/python3*/site-packages/bvlc_caffe-*.dist-info/direct_url.json; }

install_wheel() {
  local extras=image,draw
  if is_installed; then
    step "Caffe is up to date in $venv"
    return
  fi
  make_venv
  step "installing $(basename "$built"/*.whl)"
  # NVIDIA's packages, where the build took them.
  ((!${#cuda_wheels[@]})) || extras+=,cuda${cuda_version%%.*}
  # One of the same version may be another build.
  "$venv/bin/python" -m pip uninstall -q -y bvlc-caffe 2>/dev/null
  "$venv/bin/python" -m pip install -q --disable-pip-version-check "$(echo "$built"/*.whl)[$extras]" ||
    die "pip could not install Caffe's wheel into $venv"
  has_caffe "$venv/bin/python" || die "the Caffe in $venv does not import: $("$venv/bin/python" -c "$IMPORT_CAFFE" 2>&1 | tail -n 1)"
  step "Caffe is ready in $venv"
}

put_wheel() { # under its name when it is whole
  local name
  name=$(basename "$built"/*.whl)
  { cp "$built/$name" "$wheel_folder/.$name" && mv "$wheel_folder/.$name" "$wheel_folder/$name"; } 2>/dev/null ||
    { rm -f "$wheel_folder/.$name" && die "cannot write $name to $wheel_folder"; }
  step "$wheel_folder has $name"
}

main() {
  parse_arguments "$@"
  if [[ -n $existing ]]; then
    link_existing_caffe
    return
  fi
  install_packages
  choose_python
  check_cuda
  build
  if [[ -n $wheel_folder ]]; then put_wheel; else install_wheel; fi
}

# The tests read the functions without a run.
[[ ${BASH_SOURCE[0]} != "$0" ]] || {
  main "$@"
  exit # bash would read on where this file has changed meanwhile
}
