#!/usr/bin/env bash
# Runs the image pylayers:cpu or pylayers:gpu as docs/docker.md writes it, then the kit's tests and Caffe's own Python
# tests in it. `make image-test` builds the image first, and the one with the tests.
set -euo pipefail
declare -Ar LARGEST=([cpu]=700 [gpu]=1900) # MB unpacked
kind=${1:-}
[[ -n ${LARGEST[$kind]:-} ]] || { echo "usage: tests/docker/run_image.sh cpu|gpu" >&2 && exit 1; }
readonly image=pylayers:$kind
cd "$(dirname -- "${BASH_SOURCE[0]}")/../.."

step() { printf '==> %s\n' "$*"; }
die() {
  printf 'run_image.sh: error: %s\n' "$*" >&2
  exit 1
}

size=$(($(docker image inspect --format '{{.Size}}' "$image") / 1000000))
step "$image has $size MB unpacked"
((size <= LARGEST[$kind])) || die "that is more than ${LARGEST[$kind]} MB"

# A folder of a user with a net, a loss of its own and a solver. Any user may write to it, as root runs this in CI.
mine=$(mktemp -d)
# What the container's user has written, only that user or root may remove.
trap '"${in_mine[@]}" find . -user "${user%:*}" -delete 2>/dev/null || true; rm -rf "$mine"' EXIT
chmod 777 "$mine"
cp prototxt/own_loss/log_cosh_loss{.py,.prototxt,_solver.prototxt} prototxt/weighted_softmax_loss.prototxt "$mine/"
sed -i 's:prototxt/own_loss/::; /snapshot_after_train/d' "$mine"/*_solver.prototxt
echo 'snapshot_prefix: "mine"' >>"$mine/log_cosh_loss_solver.prototxt"
user=4321:4321
in_mine=(docker run --rm -v "$mine":/workspace --user "$user" "$image")

step "caffe train in a mounted folder, as user $user"
log=$("${in_mine[@]}" caffe train --solver=log_cosh_loss_solver.prototxt 2>&1) || die "it did not train: ${log: -1000}"
[[ $(stat -c %u:%g "$mine/mine_iter_100.caffemodel") == "$user" ]] || die "the snapshot is not the user's"

step "the same net in two processes"
log=$("${in_mine[@]}" mpirun -n 2 --oversubscribe pylayers train --solver log_cosh_loss_solver.prototxt --same-data 2>&1) ||
  die "it did not train: ${log: -1000}"
[[ $log == *"2 processes on 1 host"*"Optimization Done."* ]] || die "two processes did not train: ${log: -1000}"

step "the next container finds the compiled loops"
forward='import caffe; net = caffe.Net("weighted_softmax_loss.prototxt", caffe.TRAIN); net.forward(); net.backward()'
run_forward() { log=$("${in_mine[@]}" python -c "$forward" 2>&1) || die "the net does not run: ${log: -1000}"; }
kept_files() { { find "$mine/.cache" -type f 2>/dev/null || true; } | sort | xargs sha256sum; }
run_forward
kept=$(kept_files)
[[ $kept == *.nbc* ]] || die "no compiled loops are kept in .cache"
run_forward
[[ $(kept_files) == "$kept" ]] || die "they are compiled again"

step "pylayers doctor"
docker run --rm "$image" pylayers doctor
step "pylayers compare --all, without a network, as user $user, nothing written but /tmp and /workspace"
docker run --rm --network none --read-only --tmpfs /tmp --tmpfs /workspace:mode=1777 --user "$user" "$image" pylayers compare --all | tail -n 3
step "the same, and /workspace cannot be written to"
docker run --rm --network none --read-only --tmpfs /tmp -v "$PWD/prototxt":/workspace:ro --user "$user" "$image" \
  pylayers compare euclidean_loss.prototxt euclidean_loss_builtin.prototxt | tail -n 3

step "the kit's tests and Caffe's own, without a network"
# pytest, not python -m pytest: the installed kit is tested, not the one in this folder.
docker run --rm --network none "$image-test" pytest -q -p no:cacheprovider -n auto --maxprocesses 4 tests --ignore tests/docker/test_build_caffe.py
docker run --rm --network none "$image-test" python tests/docker/run_caffe_tests.py /home/caffe/caffe-tests
