#!/usr/bin/env bash
# With a Docker engine: what the cpu image and the wheel must do. .ci/engine.sh has one.
set -euo pipefail
options=${PIP_CERT:+--secret id=ca,src=$PIP_CERT --build-arg PIP_CERT=/run/secrets/ca}
make image-test IMAGE="$options"

dist=$(mktemp -d)
trap 'rm -rf "$dist"' EXIT
# shellcheck disable=SC2086  # options
DOCKER_BUILDKIT=1 docker build -f docker/Dockerfile --target wheel --output "$dist" $options .
echo "==> the wheel in a Debian 12 with nothing but Python"
docker run --rm -v "$dist":/dist:ro -v "$PWD":/kit:ro -v "${PIP_CERT:-/etc/hostname}":/run/ca:ro \
  ${PIP_CERT:+-e PIP_CERT=/run/ca} debian:bookworm /kit/tests/docker/run_wheel.sh
