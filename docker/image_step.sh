#!/usr/bin/env bash
# The steps of docker/Dockerfile that take more than a line. It runs inside an image that is being built.
set -euo pipefail
# A proxy's own certificates, where docker/image.sh --ca has brought them.
[[ ! -f /run/secrets/ca ]] || export PIP_CERT=/run/secrets/ca
pip=(/opt/caffe/bin/python -m pip --disable-pip-version-check --no-cache-dir)

die() {
  printf 'Dockerfile: error: %s\n' "$*" >&2
  exit 1
}

# Caffe in /opt/caffe, and the Debian packages of the libraries that it is linked with.
caffe() {
  case $WITH_OPENCV in
    ON) set -- "$@" --with-opencv ;;
    OFF) ;;
    *) die "--build-arg WITH_OPENCV takes ON or OFF, not '$WITH_OPENCV'" ;;
  esac
  [[ -z $JOBS ]] || set -- "$@" --jobs "$JOBS"
  /kit/docker/build_caffe.sh --venv /opt/caffe "$@"
  ldd /opt/caffe/{libexec/caffe,lib/libcaffe.so,lib/python3*/site-packages/caffe/_caffe.so} |
    awk '$3 ~ "^/" && $3 !~ "^/opt/caffe/" { print $3 }' | xargs readlink -f | sort -u | xargs dpkg-query -S |
    cut -d : -f 1 | sort -u >/opt/caffe/share/caffe/runtime-packages
  rm -rf ~/.cache /var/lib/apt/lists/*
}

libraries() {
  apt-get update -q
  # graphviz is for pycaffe's drawings of nets; Debian's pip wants the certificates.
  xargs env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    python3 graphviz ca-certificates </tmp/runtime-packages
  apt-get clean
  rm -rf /var/lib/apt/lists/*
}

# EXTRAS: what the kit needs, installed for an empty kit, so that a change to it leaves this layer alone.
packages() {
  mkdir -p /tmp/empty/pylayers
  cp /opt/pylayers/setup.py /tmp/empty/
  touch /tmp/empty/README.md
  echo '__version__ = "0"' >/tmp/empty/pylayers/__init__.py
  "${pip[@]}" install -q "/tmp/empty[$1]" pytest
  "${pip[@]}" uninstall -q -y pylayers
  rm -r /tmp/empty
}

kit() {
  "${pip[@]}" install -q --no-deps /opt/pylayers
  rm -rf /opt/pylayers/build /opt/pylayers/*.egg-info
  /opt/caffe/bin/python -c 'import caffe, pylayers; print("pylayers is in", pylayers.__path__[0])'
  /opt/caffe/bin/pylayers --version
}

# What the demo reads its data from: the tests run it.
test_packages() { "${pip[@]}" install -q scikit-learn; }

# The build script and what it needs are not in an image.
# `pytest`, not `python -m pytest`: the installed kit is tested, not the one in this folder.
tests() {
  pytest -p no:cacheprovider tests --ignore tests/docker/test_build_caffe.py
  python docker/caffe_tests.py
}

"$@"
