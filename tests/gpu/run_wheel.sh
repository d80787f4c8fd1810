#!/usr/bin/env bash
# On a GPU machine that cannot build Caffe: installs a wheel of Caffe (docker/build_caffe.sh --wheel) into a folder of
# its own, without what it depends on, and tries the kit on the GPU, step by step. It changes no environment, needs no
# network, and ends within eight minutes: what matters most comes first, and a step that takes too long is interrupted.
# OUT gets a log of each step, the benchmark's JSON, and summary.md, a page of it all.
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

last=$((SECONDS + ${LIMIT:-480}))
: >"$out/steps.txt"
# A step: NAME SECONDS COMMAND, its output into NAME.log. An interrupted pytest still says what has failed.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0
  ((limit < last - SECONDS)) || limit=$((last - SECONDS))
  if ((limit < 5)); then
    echo "$name - - no time left" >>"$out/steps.txt"
    return
  fi
  echo "==> $name"
  timeout --signal=INT --kill-after=15 "$limit" "${@:3}" 2>&1 | tee "$out/$name.log" || status=$?
  echo "$name $status $((SECONDS - start)) $(grep -v '^$' "$out/$name.log" | tail -n 1)" >>"$out/steps.txt"
}
pytest=("$python" -m pytest -v --tb=short --durations=15 -p no:cacheprovider -m gpu)
! "$python" -c 'import pytest_timeout' 2>/dev/null || pytest+=(--timeout=90)
slow='10000_iterations or sanitizer or caffe_train or 2_gib'

# Caffe destroys its cuBLAS handle after CUDA's own end; should that be an error, each training ends with status 134.
step empty 30 "$python" -c 'import caffe; caffe.set_mode_gpu(); caffe.set_random_seed(1); print("Caffe ends as it should")'
step smoke 45 "${pytest[@]}" tests/gpu/test_smoke.py
step bench 160 "$python" -m pylayers bench --device gpu --json "$out/bench.json"
step parity 90 "${pytest[@]}" tests/gpu/test_gpu_parity.py -k "not ($slow)"
step modes 60 "${pytest[@]}" tests/gpu/test_gpu_mode.py -k "not ($slow)"
step caffe_train 60 "${pytest[@]}" tests/gpu -k caffe_train
step training 60 "${pytest[@]}" tests/gpu/test_gpu_training.py
step losses 120 "${pytest[@]}" tests/losses
step iterations 60 "${pytest[@]}" tests/gpu -k 10000_iterations
probe=$(timeout 60 compute-sanitizer "$python" -c 'import cupy; print((cupy.arange(3) + 1).sum())' 2>&1 | tail -n 1) || probe="none: $probe"
if [[ $probe == *"0 errors"* ]]; then
  wrong_labels=tests/gpu/test_gpu_mode.py::test_a_wrong_label_is_an_error_at_most_one_iteration_late
  step memcheck 60 compute-sanitizer --report-api-errors no --error-exitcode=9 --target-processes=all "${pytest[@]}" "$wrong_labels"
  for tool in racecheck synccheck; do
    step $tool 60 compute-sanitizer --tool $tool --error-exitcode=9 --target-processes=all "${pytest[@]}" "$wrong_labels" -k nan
  done
else
  echo "sanitizer - - it does not run here: $probe" >>"$out/steps.txt"
fi
step large 90 "${pytest[@]}" tests/gpu/test_gpu_parity.py -k 2_gib
# Nothing to do for a wheel without cuDNN.
step cudnn 60 "${pytest[@]}" tests/gpu/test_gpu_cudnn.py
"$python" tests/gpu/summary.py "$out"
