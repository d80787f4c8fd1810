#!/usr/bin/env bash
# On a GPU machine that cannot build Caffe: installs a wheel of Caffe (docker/build_caffe.sh --wheel) into a folder of
# its own, without what it depends on, and runs tests/gpu, the benchmark, and the tests of wrong labels under
# compute-sanitizer. It changes no environment, needs no network, and ends within ten minutes. A log of each, and the
# benchmark's JSON, go into the folder OUT.
set -euo pipefail

die() {
  printf 'run_wheel.sh: error: %s\n' "$*" >&2
  exit 1
}

(($# == 2)) || die "usage: tests/gpu/run_wheel.sh WHEEL OUT (PYTHON names another Python than python3)"
[[ -f $1 ]] || die "no file '$1'"
wheel=$(realpath "$1")
mkdir -p "$2" 2>/dev/null && [[ -w $2 ]] || die "cannot write to the folder '$2'"
out=$(realpath "$2")
python=$(command -v "${PYTHON:-python3}") || die "no Python '${PYTHON:-python3}'"
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip install -q --disable-pip-version-check --no-index --no-deps --target "$work" "$wheel" ||
  die "$wheel does not install in $python"
export PATH=$work/bin:$PATH:/usr/local/cuda/bin PYTHONPATH=$work:$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYLAYERS_TEST_GPU=1 PYTHONDONTWRITEBYTECODE=1 GLOG_minloglevel=2
{
  uname -srm
  "$python" -VV
  nvidia-smi || true
  "$python" -m pip list --disable-pip-version-check 2>/dev/null || true
  cat "$work"/bvlc_caffe-*.dist-info/METADATA
} >"$out/machine.txt"
"$python" -c 'import caffe, pylayers' || die "the wheel's Caffe does not import in $python"
caffe --version
"$python" -c 'import cupy; cupy.cuda.runtime.getDeviceCount()' || die "CuPy finds no GPU in $python"

failed=()
run() { # NAME SECONDS COMMAND: the output into NAME.log
  echo "==> $1"
  timeout --kill-after=10 "$2" "${@:3}" 2>&1 | tee "$out/$1.log" || failed+=("$1")
}
wrong_labels=tests/gpu/test_gpu_mode.py::test_a_wrong_label_is_an_error_at_most_one_iteration_late

run tests 280 "$python" -m pytest -q -rs -p no:cacheprovider -m gpu tests/gpu tests/losses
run bench 150 "$python" -m pylayers bench --device gpu --json "$out/bench.json"
run sanitizer 120 compute-sanitizer --error-exitcode=9 --target-processes=all \
  "$python" -m pytest -q -p no:cacheprovider "$wrong_labels"
((!${#failed[@]})) || die "failed: ${failed[*]}; see the logs in $out"
echo "==> all passed; $out holds the logs, and bench.json for benchmarks/"
