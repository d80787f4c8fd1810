#!/usr/bin/env bash
# Builds BVLC Caffe (binary, library, pycaffe with Python layers) into a virtual environment.
# The same script serves the native build and the Docker image; see usage() below.
set -euo pipefail

readonly CAFFE_VERSION='1.0.0+git20180821.99bd997'
readonly CAFFE_DEBIAN_REVISION=8
readonly CAFFE_COMMIT=99bd99795dcdf0b1d3086a8d67ab1782a8a08383
# The files that the build reads, and their checksum (see files_sha256), wherever they were fetched from.
readonly CAFFE_FILES=(CMakeLists.txt cmake include src python tools models examples)
readonly CAFFE_SHA256=70766204172dcc8b19543a329847e88fdfa2b82790e1e5be0b7e4d0533707e20
readonly CAFFE_SUITE=bullseye # the Debian suite whose source packages include Caffe
# Of Caffe's own C++ tests those of what this kit is held against, by the names of their files.
readonly CPP_TESTS="caffe_main,convolution_layer,inner_product_layer,reduction_layer,softmax_layer,\
contrastive_loss_layer,euclidean_loss_layer,hinge_loss_layer,infogain_loss_layer,multinomial_logistic_loss_layer,\
sigmoid_cross_entropy_loss_layer,softmax_with_loss_layer,net,solver,solver_factory,gradient_based_solver"
readonly CAFFE_FOLDER='import caffe; print(caffe.__path__[0])'
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly here

venv=.venv
python=/usr/bin/python3 # the one that Debian's Boost.Python is built for
python_given=
tarball=
upstream=https://github.com/BVLC/caffe
jobs=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # nproc heeds them, and they are no property of the machine
use_apt=1
with_opencv=OFF
cpp_tests=
# shellcheck source=docker/cuda.sh
. "$here/cuda.sh"
# shellcheck source=docker/boost_python.sh
. "$here/boost_python.sh"
# shellcheck source=docker/bundle.sh
. "$here/bundle.sh"

usage() {
  cat <<EOF
usage: docker/build_caffe.sh [options]

Builds BVLC Caffe 99bd997 into a virtual environment, or links the Caffe that --python
already has into it. A finished build is kept in ~/.cache/pylayers and used again.

  --venv DIR            virtual environment, made if need be (default: .venv)
  --python EXE          a Python that imports Caffe already: use that one, build nothing;
                        with --bundle, the Python to build for
  --source FILE         Caffe's source tarball (default: fetched as Debian's source package,
                        or where this machine's archive has none, from upstream)
  --upstream URL        where upstream is (default: $upstream)
  --with-opencv         build the layers and tools that read images through OpenCV
  --cuda                build for CUDA (default: CPU only)
  --cuda-arch LIST      compute capabilities, PTX for the last (default: "$cuda_arch")
  --cuda-host-compiler EXE   the C++ compiler that nvcc calls (default: one that it takes)
  --cpp-tests           also build Caffe's C++ tests of losses, layers, net and solver, and run them
  --bundle FILE.tar.xz  pack the build, for a machine with another distribution too
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
      --venv | --python | --source | --upstream | --cuda-arch | --cuda-host-compiler | --bundle | --jobs)
        (($# > 1)) && [[ -n $2 ]] || die "$1 needs a value (see --help)"
        ;;&
      --venv) venv=$2 && shift 2 ;;
      --python) python=$2 && python_given=1 && shift 2 ;;
      --source) tarball=$2 && shift 2 ;;
      --upstream) upstream=${2%/} && shift 2 ;;
      --cuda-arch) cuda_arch=$2 && shift 2 ;;
      --cuda-host-compiler) cuda_host_compiler=$2 && shift 2 ;;
      --bundle) bundle=$2 && shift 2 ;;
      --jobs) jobs=$2 && shift 2 ;;
      --with-opencv) with_opencv=ON && shift ;;
      --cuda) cuda=1 && shift ;;
      --cpp-tests) cpp_tests=1 && shift ;;
      --no-apt) use_apt= && shift ;;
      -h | --help) usage && exit ;;
      *) die "unknown option '$1' (see --help)" ;;
    esac
  done
  [[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs takes a whole number from 1, not '$jobs'"
  [[ $cuda_arch =~ ^[0-9]{2,3}(\ [0-9]{2,3})*$ ]] ||
    die "--cuda-arch takes compute capabilities such as \"80 90\", not '$cuda_arch'"
  [[ -z $cpp_tests || -z $cuda ]] || die "--cpp-tests is for the CPU build; leave --cuda out"
  check_venv
  check_bundle
  [[ -z $tarball ]] || check_tarball
}

# ---- A Caffe that is already there

has_caffe() {
  "$1" -c 'import caffe, sys; sys.exit("Python" not in caffe.layer_type_list())' >/dev/null 2>&1
}

why_no_caffe() {
  "$python" -c 'import caffe; print("its Caffe was built without them")' 2>&1 | tail -n 1
}

# Makes the virtual environment see every folder that the user's Python imports from. The user's
# own environment is left as it is: the kit and its test tools go into the virtual environment.
link_existing_caffe() {
  local existing found paths
  existing=$("$python" -c "$CAFFE_FOLDER" 2>/dev/null)
  step "using the Caffe that $python already has: $existing"
  [[ $("$python" -c 'import os, sys; print(os.path.realpath(sys.prefix))') != $(readlink -f "$venv") ]] || return 0
  make_venv
  paths=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/existing-caffe.pth
  "$python" - <<'EOF' >"$paths"
import os, sys, sysconfig
standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
for folder in map(os.path.abspath, filter(os.path.isdir, sys.path[1:])):
    if folder not in standard and os.path.basename(folder) != "lib-dynload":
        print(f"import site; site.addsitedir({folder!r})")
EOF
  found=$("$venv/bin/python" -c "$CAFFE_FOLDER" 2>/dev/null || echo none)
  if [[ $found != "$existing" ]]; then
    rm "$paths"
    die "$venv finds another Caffe ($found) than $python ($existing); remove $venv or name another with --venv"
  fi
  link_existing_command "$existing"
}

# The caffe command that belongs to the folder $1 of pycaffe: beside its Python, or in Caffe's build or
# install folder. It is started so that it finds what is in the virtual environment.
link_existing_command() {
  local command
  for command in "$(dirname "$python")/caffe" "$1"/../../{build/tools,bin}/caffe; do
    [[ -x $command ]] || continue
    command=$(readlink -f "$command")
    # Where that is the wrapper of another build by this script, the binary lies behind it.
    [[ ! -x $(dirname "$command")/../libexec/caffe ]] || command=$(readlink -f "$(dirname "$command")/../libexec/caffe")
    step "and its command $command"
    mkdir -p "$venv/libexec"
    ln -sf "$command" "$venv/libexec/caffe"
    cp "$here/caffe_wrapper.sh" "$venv/bin/caffe"
    return
  done
}

# ---- Debian's packages

packages() {
  printf '%s\n' g++ make cmake patch ca-certificates python3-dev python3-venv \
    libboost-{system,thread,filesystem,python}-dev libprotobuf-dev protobuf-compiler \
    libgoogle-glog-dev libgflags-dev libhdf5-dev liblmdb-dev libleveldb-dev libsnappy-dev \
    libopenblas-dev graphviz
  [[ $with_opencv == OFF ]] || echo libopencv-dev
  # A toolkit of NVIDIA's own on PATH is as good as Debian's.
  [[ -z $cuda ]] || command -v nvcc >/dev/null || echo nvidia-cuda-toolkit
  [[ -z $bundle ]] || printf '%s\n' patchelf xz-utils
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

# ---- Python

check_venv() {
  [[ ! -e $venv || -f $venv/pyvenv.cfg || -z $(ls -A "$venv") ]] ||
    die "$venv is there and is not a virtual environment; name another folder with --venv"
}

make_venv() {
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  step "making the virtual environment $venv from $python"
  # Over an environment that lacks something this adds it; no file of the user's is removed.
  "$python" -m venv "$venv" || die "$python -m venv failed (Debian's package python3-venv has what it needs)"
}

install_requirements() {
  step "installing pycaffe's Python packages"
  "$venv/bin/python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt" "${cuda_wheels[@]}" ||
    die "pip could not install docker/requirements.txt${cuda_wheels[*]:+ and ${cuda_wheels[*]}}"
}

# ---- Source

# The archives of this Debian release that apt knows, one "URI" a line, from both formats of its sources
# in the folder $1; with $2 those of that suite of it, such as -security.
archive_uris() {
  local suite
  suite="($(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)|stable|oldstable|testing|unstable|sid)${2:-}"
  {
    { cat "$1/sources.list" "$1"/sources.list.d/*.list 2>/dev/null || true; } | awk -v suite="^($suite)$" '
      /^deb/ { sub(/\[[^]]*\]/, ""); if ($3 ~ suite) print $2 }'
    # A blank line ends an entry: one after each file.
    for file in "$1"/sources.list.d/*.sources; do
      # shellcheck disable=SC1003  # sed's own: a line's end after the last line, where it lacks one
      [[ ! -f $file ]] || sed '$a\\' "$file"
      echo
    done | awk -v suite="^($suite)$" '
      /^URIs:/ { uris = $0; sub(/^URIs:[ \t]*/, "", uris) }
      /^Suites:/ { for (i = 2; i <= NF; i++) if ($i ~ suite) found = 1 }
      NF == 0 { if (found) { n = split(uris, list); for (i = 1; i <= n; i++) print list[i] } found = 0 }'
  } | sort -u
}

fetch_from() { # URI SUITE PACKAGE FOLDER: Debian's source package, with apt's state in FOLDER alone
  local state=$4/apt keyring signed=
  for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
    [[ ! -f $keyring ]] || signed="[signed-by=$keyring]"
  done
  mkdir -p "$state"/{lists,archives}/partial
  echo "deb-src $signed $1 $2 main" >"$state/sources.list"
  local options=(-q -o "Dir::Etc::SourceList=$state/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state" -o APT::Sandbox::User=)
  (cd "$4" && apt-get "${options[@]}" update && apt-get "${options[@]}" source --download-only "$3")
}

fetch_package() { # SUITE PACKAGE FOLDER: its files, from the first archive that has it
  local uri
  for uri in $(archive_uris /etc/apt); do
    step "fetching the source package ${2%%=*} from this machine's Debian archive"
    fetch_from "$uri" "$@" >"$3/fetch.log" 2>&1 && return
    tail -n 3 "$3/fetch.log" >&2
  done
  return 1
}

fetch_upstream() { # FOLDER: the commit, by git or curl, into FOLDER/upstream; or a tarball in $tarball
  step "fetching Caffe's source from $upstream"
  if command -v git >/dev/null; then
    { git init -q "$1/upstream" && git -C "$1/upstream" fetch -q --depth 1 "$upstream" "$CAFFE_COMMIT" &&
      git -C "$1/upstream" checkout -q FETCH_HEAD; } >"$1/fetch.log" 2>&1
  elif command -v curl >/dev/null; then
    curl -fsSL --retry 3 -o "$1/upstream.tar.gz" "$upstream/archive/$CAFFE_COMMIT.tar.gz" >"$1/fetch.log" 2>&1 &&
      tarball=$1/upstream.tar.gz
  else
    echo "there is neither git nor curl" >"$1/fetch.log"
    false
  fi
}

fetch_source() { # FOLDER: leaves the path of the tarball in $tarball, or the files in FOLDER/upstream
  [[ -z $tarball ]] || return 0
  local package=caffe=$CAFFE_VERSION-$CAFFE_DEBIAN_REVISION
  if command -v apt-get >/dev/null && fetch_package "$CAFFE_SUITE" "$package" "$1"; then
    tarball=$1/caffe_$CAFFE_VERSION.orig.tar.gz
  else
    fetch_upstream "$1" ||
      die "neither apt's archives ($package in $CAFFE_SUITE) nor $upstream give Caffe's source ($(tail -n 1 "$1/fetch.log")); give the tarball with --source"
  fi
}

files_sha256() { # FOLDER
  (cd "$1" && find "${CAFFE_FILES[@]}" -type f -print0 2>/dev/null | LC_ALL=C sort -z | xargs -0 -r sha256sum |
    sha256sum | cut -d ' ' -f 1)
}

# Before anything is installed. In a subshell of its own, for the trap.
check_tarball() (
  [[ -f $tarball ]] || die "--source: no file '$tarball'"
  work=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of this run
  trap "rm -rf '$work'" EXIT
  mkdir "$work/source"
  unpack_source "$work"
)

unpack_source() { # WORK: into its folder source
  local patch found from=${tarball:-$upstream}
  if [[ -n $tarball ]]; then
    tar -xzf "$tarball" -C "$1/source" 2>/dev/null || die "$tarball is no whole tar.gz archive"
    # Upstream's archive has all in one folder, Debian's has not.
    [[ -e $1/source/CMakeLists.txt ]] || mv "$1"/source/*/{.[!.]*,*} "$1/source/" 2>/dev/null || true
  else
    cp -r "$1/upstream/." "$1/source/"
  fi
  set -- "$1/source"
  found=$(files_sha256 "$1")
  [[ $found == "$CAFFE_SHA256" ]] ||
    die "the files in $from have the checksum $found, expected $CAFFE_SHA256: that of BVLC Caffe ${CAFFE_COMMIT:0:7}"
  for patch in "$here"/patches/*.patch; do
    patch -d "$1" -p1 -s --fuzz=0 --no-backup-if-mismatch <"$patch" ||
      die "docker/patches/$(basename "$patch") does not apply"
  done
}

# ---- Build

# An environment that is there keeps its Python.
compiling_python() { if [[ -x $venv/bin/python ]]; then echo "$venv/bin/python"; else echo "$python"; fi; }

# What a build depends on, as text; its checksum names the build in the cache.
build_inputs() {
  echo "$CAFFE_SHA256 opencv=$with_opencv cuda=$cuda $cuda_arch $cuda_host_compiler tests=$cpp_tests $(uname -m)"
  [[ -z $cuda ]] || nvcc --version
  "$(compiling_python)" -c 'import sys; print(sys.implementation.cache_tag, sys.base_prefix)'
  cat "$here"/{build_caffe.sh,cuda.sh,boost_python.sh,caffe_wrapper.sh,requirements.txt} "$here"/patches/*.patch
  if command -v dpkg-query >/dev/null; then
    bundle='' packages | xargs dpkg-query -W 2>/dev/null || true # a package may be missing
  else
    cat /etc/os-release
  fi
}

compile() { # SOURCE BUILD
  local python_paths options
  # CMake's own search would take another Python of the same version where there are two.
  mapfile -t python_paths < <("$venv/bin/python" -c '
import os, sysconfig
print(sysconfig.get_path("include"))
print(os.path.join(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME") or ""))')
  [[ -f ${python_paths[0]}/Python.h ]] || die "no Python.h in ${python_paths[0]}; install the headers of $python"
  [[ ${python_paths[1]} == *.so* && -f ${python_paths[1]} ]] ||
    die "$python has no shared libpython (${python_paths[1]}); Caffe's binary embeds it. Use /usr/bin/python3"
  find_boost_python "$2-boost"
  options=$(boost_python_options && cuda_options "$2-links")
  mapfile -t options <<<"$options"
  local targets=(caffe.bin pycaffe upgrade_net_proto_text)
  [[ -z $cpp_tests ]] || targets+=(test.testbin)
  # Caffe's libraries are found from each of their places in the virtual environment.
  local linking
  linking="-Wl,-rpath,'\$ORIGIN/../lib:\$ORIGIN/../../..$(cuda_rpath)' $(cuda_rpath_link)"
  step "configuring Caffe"
  cmake -S "$1" -B "$2" "${options[@]}" -Wno-dev -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DCMAKE_EXPORT_NO_PACKAGE_REGISTRY=ON -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=12 \
    -DCMAKE_CXX_FLAGS="-w -DBOOST_BIND_GLOBAL_PLACEHOLDERS -DBOOST_ALLOW_DEPRECATED_HEADERS $(cuda_include)" -DCMAKE_SKIP_RPATH=ON \
    -DCMAKE_EXE_LINKER_FLAGS="$linking" -DCMAKE_SHARED_LINKER_FLAGS="$linking" \
    -DBLAS=Open -DUSE_OPENCV="$with_opencv" -DBUILD_docs=OFF -DBUILD_only_tests="$CPP_TESTS" -Dpython_version=3 \
    -DPYTHON_EXECUTABLE="$(cd "$venv" && pwd)/bin/python" \
    -DPYTHON_INCLUDE_DIR="${python_paths[0]}" -DPYTHON_LIBRARY="${python_paths[1]}" >"$2.log" 2>&1 ||
    { tail -n 25 "$2.log" >&2 && die "CMake could not configure Caffe"; }
  grep -q 'Python interface is disabled' "$2.log" &&
    die "there is no Boost.Python here for $("$venv/bin/python" -V), which is in $venv; use one made from /usr/bin/python3"
  step "compiling Caffe on $jobs cores"
  # An outer make must not lend its flags to this one.
  env -u MAKEFLAGS -u MAKELEVEL cmake --build "$2" --parallel "$jobs" --target "${targets[@]}" ||
    die "Caffe did not compile"
}

run_cpp_tests() { # SOURCE BUILD: they read files of the source tree
  local log=$2-tests.log status=0
  step "running Caffe's C++ tests"
  (cd "$1" && LD_LIBRARY_PATH=$2/lib "$2/test/test.testbin" --gtest_color=no) >"$log" 2>&1 || status=$?
  grep -E '^\[=+\] .* ran|^\[  (PASSED|FAILED)' "$log" || tail -n 20 "$log"
  ((status == 0)) || die "Caffe's C++ tests failed, with status $status"
}

assemble() { # SOURCE BUILD TREE: the files as they will lie in the virtual environment
  local module share=$3/share/caffe
  module=$3/lib/$("$venv/bin/python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/site-packages/caffe
  mkdir -p "$3"/{bin,libexec,lib} "$module/proto"
  cp -a "$2"/lib/libcaffe.so* "$3/lib/"
  cp "$2/tools/caffe" "$3/libexec/caffe"
  cp "$2/tools/upgrade_net_proto_text" "$3/bin/"
  # The same command as a library, for a bundle: there Python runs it.
  find "$2/tools/CMakeFiles/caffe.bin.dir" -name '*.o' -print0 |
    xargs -0 c++ -shared -o "$3/libexec/caffe.so" -Wl,--no-as-needed "$2/lib/libcaffe.so" -Wl,-rpath,"\$ORIGIN/../lib"
  [[ -z $boost_python ]] || cp "$boost_python" "$3/lib/"
  cp "$here/caffe_wrapper.sh" "$3/bin/caffe"
  cp -r "$1"/python/caffe/{*.py,imagenet} "$module/"
  # Caffe's Python tests, and the nets that they read where a source tree has them.
  mkdir -p "$share/python/caffe"
  cp -r "$1/python/caffe/test" "$share/python/caffe/"
  (cd "$1" && find models examples -name '*.prototxt' -exec cp --parents -t "$share" {} +)
  cp "$2/lib/_caffe.so" "$module/"
  cp "$2/include/caffe/proto/caffe_pb2.py" "$module/proto/"
  touch "$module/proto/__init__.py"
  strip --strip-unneeded "$3"/lib/lib*.so.* "$3"/libexec/* "$3/bin/upgrade_net_proto_text" "$module/_caffe.so"
}

build_into() { # TREE
  local work
  work=$(mktemp -d "$cache/build.XXXXXX")
  # shellcheck disable=SC2064  # the folder of this build
  trap "rm -rf '$work'" EXIT
  mkdir "$work"/{source,build}
  fetch_source "$work"
  unpack_source "$work"
  make_venv
  install_requirements
  compile "$work/source" "$work/build"
  [[ -z $cpp_tests ]] || run_cpp_tests "$work/source" "$work/build"
  assemble "$work/source" "$work/build" "$work/tree"
  # A rename is whole or not at all; a build that another run finished meanwhile is as good.
  mv -T "$work/tree" "$1" 2>/dev/null || [[ -d $1 ]] || die "could not write $1"
}

build() {
  local key stamp=$venv/.caffe-build
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/pylayers
  key=$(build_inputs | sha256sum | cut -c 1-16)
  if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then
    step "Caffe is up to date in $venv"
    return
  fi
  mkdir -p "$cache"
  # What builds that were killed have left behind; none takes ten hours.
  find "$cache" -maxdepth 1 -name 'build.*' -mmin +600 -exec rm -rf {} +
  if [[ -d $cache/caffe-$key ]]; then
    step "using the build kept in $cache/caffe-$key"
    make_venv
    install_requirements
  else
    build_into "$cache/caffe-$key"
  fi
  rm -f "$stamp"
  cp -a "$cache/caffe-$key/." "$venv/"
  "$venv/bin/python" -c 'import caffe' || die "the Caffe in $venv does not import"
  has_caffe "$venv/bin/python" || die "the Caffe in $venv has no Python layers"
  echo "$key" >"$stamp"
  step "Caffe is ready in $venv"
}

main() {
  parse_arguments "$@"
  if [[ -n $python_given ]]; then
    command -v "$python" >/dev/null || die "--python: '$python' is not a Python"
    python=$(command -v "$python")
  fi
  if [[ -n $python_given && -z $bundle ]]; then
    has_caffe "$python" ||
      die "--python: $python has no Caffe with Python layers ($(why_no_caffe)); leave --python out to have one built"
    link_existing_caffe
    return
  fi
  [[ -z $python_given ]] || check_python_of_venv
  install_packages
  check_cuda
  build
  [[ -z $bundle ]] || pack_bundle
}

# The tests read the functions without a run.
[[ ${BASH_SOURCE[0]} != "$0" ]] || {
  main "$@"
  exit # bash would read on where this file has changed meanwhile
}
