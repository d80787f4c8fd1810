#!/usr/bin/env bash
# For CI: runs a command with a Docker engine, and with the base images of docker/Dockerfile. Where no engine runs, it
# starts one with a data folder of its own and stops it in the end; where no registry is reached, debootstrap makes the
# images. Exits with the command's status; with 77 and a reason where the kernel allows no engine.
#   .ci/engine.sh COMMAND...
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
export PATH=/usr/bin:$PATH # another client may want plug-ins that are not here

die() {
  echo "engine.sh: error: $1" >&2
  exit "${2:-1}"
}

stop() {
  local pid
  if [[ -s $folder/pid ]]; then
    pid=$(<"$folder/pid")
    kill "$pid" 2>/dev/null || true
    for _ in {1..100}; do [[ ! -d /proc/$pid ]] || sleep 0.2; done
  fi
  rm -rf "$folder" || true
}
trap stop EXIT
trap 'exit 143' TERM INT

install() { # PACKAGE...
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; } >"$folder/apt.log" 2>&1 ||
    die "apt-get could not install $*: $(tail -n 1 "$folder/apt.log")"
}

start() {
  # Debian 13 has the client and its plug-in apart.
  command -v dockerd >/dev/null || install docker.io iptables
  command -v docker >/dev/null || install docker-cli docker-buildx
  export DOCKER_HOST=unix://$folder/docker.sock
  dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" >"$folder/log" 2>&1 &
  for _ in {1..60}; do
    docker info >/dev/null 2>&1 && return
    kill -0 $! 2>/dev/null || break
    sleep 0.5
  done
  die "no Docker engine can run here: $(grep -v 'level=info' "$folder/log" | tail -n 1)" 77
}

# SUITE IMAGE: Debian's packages, without manuals and translations, as the slim images have them.
make_base() {
  local root=$folder/root-$1 archive
  docker image inspect "$2" >/dev/null 2>&1 && return
  docker pull -q "$2" >/dev/null 2>&1 && return
  command -v debootstrap >/dev/null || install debootstrap
  archive=$(bash -c '. docker/build_caffe.sh && archive_uris' | head -n 1)
  debootstrap --variant=minbase "$1" "$root" "$archive" >"$folder/debootstrap.log" 2>&1 ||
    die "debootstrap could not make $1: $(tail -n 1 "$folder/debootstrap.log")"
  rm -rf "$root"/etc/apt/sources.list "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{info,locale,man}/*
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  printf '%s\n' 'Types: deb' "URIs: $archive" "Suites: $1 $1-updates" 'Components: main' \
    'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' >"$root/etc/apt/sources.list.d/debian.sources"
  tar -C "$root" -c . | docker import - "$2" >/dev/null
  rm -rf "$root"
}

docker info >/dev/null 2>&1 || start
make_base trixie debian:trixie-slim
make_base bookworm debian:bookworm
"$@"
