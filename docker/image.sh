#!/usr/bin/env bash
# Builds the images of docker/Dockerfile and runs their tests: with docker, or with buildah where no Docker engine runs.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly LOCAL_BASE=localhost/pylayers-base:trixie
declare -Ar LARGEST=([cpu]=1200 [gpu]=3500) # MB
readonly OPENCV=400 # more, with its packages

usage() {
  cat <<EOF
usage: docker/image.sh build cpu|gpu|caffe-test [options]
       docker/image.sh test cpu|gpu [options]

build makes the image pylayers:cpu or pylayers:gpu; caffe-test compiles Caffe and runs its own C++ tests.
test builds the image, adds this clone's tests to it, and runs these and Caffe's own Python tests inside.

  --build-arg NAME=VALUE   WITH_OPENCV=ON, CUDA_ARCH="80 90", JOBS=4, BASE=an image of Debian 13
  --base debootstrap    make the base image from Debian's packages, where no registry can be reached
                        (needs root and debootstrap)
  --ca FILE             certificates that pip shall trust while it builds, for a proxy that brings its own
  --gpu                 for test: with this machine's GPUs (Docker with NVIDIA's container toolkit)
  -h, --help            this text

example: docker/image.sh build gpu --build-arg CUDA_ARCH=90
EOF
}

step() { printf '==> %s\n' "$*"; }
die() {
  printf 'image.sh: error: %s\n' "$*" >&2
  exit 1
}

options=()
run_options=()
base=
base_given=
more=0

parse_arguments() {
  if [[ " $* " == *" -h "* || " $* " == *" --help "* ]]; then usage && exit; fi
  [[ "${1:-} ${2:-}" =~ ^(build (cpu|gpu|caffe-test)|test (cpu|gpu))$ ]] ||
    die "expected build cpu, build gpu, build caffe-test, test cpu or test gpu, not '$*' (see --help)"
  action=$1 target=$2
  shift 2
  while (($#)); do
    case $1 in
      --base | --ca | --build-arg) [[ -n ${2:-} ]] || die "$1 needs a value (see --help)" ;;&
      --base)
        [[ $2 == debootstrap ]] || die "--base takes debootstrap, not '$2'; --build-arg BASE=... names an image"
        base=1 && shift 2
        ;;
      --ca)
        [[ -f $2 ]] || die "--ca: no file '$2'"
        options+=(--secret "id=ca,src=$2") && shift 2
        ;;
      --build-arg)
        [[ $2 =~ ^(WITH_OPENCV=(ON|OFF)|CUDA_ARCH=[0-9]+(\ [0-9]+)*|JOBS=[1-9][0-9]*|BASE=.+)$ ]] ||
          die "--build-arg takes WITH_OPENCV=ON or OFF, CUDA_ARCH=\"80 90\", JOBS=4 or BASE=image, not '$2'"
        [[ $2 != BASE=* ]] || base_given=1
        [[ $2 != WITH_OPENCV=ON ]] || more=$OPENCV
        options+=(--build-arg "$2") && shift 2
        ;;
      --gpu) run_options+=(--gpus all) && shift ;;
      *) die "unknown option '$1' (see --help)" ;;
    esac
  done
  [[ -z $base || -z $base_given ]] || die "--base makes an image and --build-arg BASE names one; give one of them"
  [[ $action == test ]] || ((!${#run_options[@]})) || die "--gpu is for test; a build needs no GPU"
}

# ---- The engine

find_engine() {
  if docker info >/dev/null 2>&1; then
    engine=docker
    return
  fi
  command -v buildah >/dev/null || die "no Docker engine runs here, and there is no buildah; install either"
  ((!${#run_options[@]})) || die "--gpu needs a running Docker engine"
  engine=buildah
  # Neither needs a container runtime, nor rights that a container or a small virtual machine lacks.
  export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}
}

build() { # TARGET
  local layers=()
  [[ $engine == docker ]] || layers=(--layers)
  step "building pylayers:$1 with $engine"
  DOCKER_BUILDKIT=1 "$engine" build "${layers[@]}" "${options[@]}" -f "$here/Dockerfile" --target "$1" -t "pylayers:$1" "$here/.."
}

has_image() { "$engine" inspect --type image "$1" >/dev/null 2>&1; }

unpacked_size() { # IMAGE: in bytes
  if [[ $engine == docker ]]; then
    docker image inspect --format '{{.Size}}' "$1"
  else # as in "795 MB"
    buildah images --format '{{.Size}}' "$1" | sed 's/ //; s/B$//; s/k$/K/' | numfmt --from=si
  fi
}

run() { # IMAGE: runs its command
  if [[ $engine == docker ]]; then
    docker run --rm "${run_options[@]}" "$1"
    return
  fi
  local container status=0
  container=$(buildah from "$1")
  # Unlike docker, buildah does not start an image's own command.
  buildah run "$container" docker/image_step.sh tests || status=$?
  buildah rm "$container" >/dev/null
  return $status
}

# SUFFIX of the suite: the first such archive that this machine's apt knows.
archive_uri() { bash -c '. "$1" && archive_uris /etc/apt "$2"' - "$here/build_caffe.sh" "$1" | head -n 1; }

# In place of debian:trixie-slim, from the Debian archive of this machine; made once.
make_base() {
  options+=(--build-arg "BASE=$LOCAL_BASE")
  ! has_image "$LOCAL_BASE" || return 0
  command -v debootstrap >/dev/null || die "--base debootstrap needs Debian's package debootstrap"
  ((EUID == 0)) || die "--base debootstrap must be run as root"
  local archive security root container
  archive=$(archive_uri '')
  security=$(archive_uri -security)
  [[ -n $archive ]] || die "--base debootstrap: no Debian archive in /etc/apt"
  step "making the base image $LOCAL_BASE"
  root=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of this run
  trap "rm -rf '$root'" EXIT
  debootstrap --variant=minbase trixie "$root" "$archive" >/dev/null || die "debootstrap could not make Debian 13"
  rm -rf "$root"/etc/apt/sources.list "$root"/var/cache/apt/archives/*.deb
  printf '%s\n' 'Types: deb' "URIs: $archive" 'Suites: trixie trixie-updates' 'Components: main' \
    'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' \
    ${security:+'' 'Types: deb' "URIs: $security" 'Suites: trixie-security' 'Components: main'} \
    ${security:+'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg'} \
    >"$root/etc/apt/sources.list.d/debian.sources"
  if [[ $engine == docker ]]; then
    tar -C "$root" -c . | docker import - "$LOCAL_BASE"
  else
    container=$(buildah from scratch)
    buildah add -q "$container" "$root" /
    buildah commit -q --rm "$container" "$LOCAL_BASE"
  fi
}

main() {
  parse_arguments "$@"
  find_engine
  [[ -z $base ]] || make_base
  build "$target"
  [[ $target != caffe-test ]] || return 0
  local size
  size=$(($(unpacked_size "pylayers:$target") / 1000000))
  step "pylayers:$target has $size MB unpacked"
  ((size <= LARGEST[$target] + more)) || die "that is more than $((LARGEST[$target] + more)) MB"
  [[ $action == test ]] || return 0
  build "$target-test"
  run "pylayers:$target-test"
}

# The tests read the functions without a run.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
