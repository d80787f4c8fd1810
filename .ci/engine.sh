#!/usr/bin/env bash
# For CI, on a machine where no Docker engine runs and no registry is reached: runs a command with an engine of its own
# and with the base images of docker/Dockerfile, made by debootstrap. Exits with the command's status; with 77 and a
# reason where no engine can run here.
#   .ci/engine.sh COMMAND...
set -euo pipefail
folder=$(mktemp -d)
export DOCKER_HOST=unix://$folder/docker.sock
export PATH=/usr/bin:$PATH # another client may want plug-ins that are not here

stop() {
  if [[ -s $folder/pid ]]; then
    kill "$(<"$folder/pid")" 2>/dev/null || true
    for _ in {1..50}; do [[ -e $folder/pid ]] && sleep 0.2; done
  fi
  rm -rf "$folder" || true
}
trap stop EXIT
trap 'exit 143' TERM INT

start() {
  if ! command -v dockerd debootstrap >/dev/null; then
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io debootstrap iptables >/dev/null
  fi
  dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" >"$folder/log" 2>&1 &
  for _ in {1..60}; do
    docker info >/dev/null 2>&1 && return
    kill -0 $! 2>/dev/null || break
    sleep 0.5
  done
  echo "no Docker engine can run here: $(tail -n 1 "$folder/log")" >&2
  exit 77
}

# SUITE IMAGE: Debian's packages, without manuals and translations, as the slim images have them.
make_base() {
  local root=$folder/root-$1 archive
  archive=$(bash -c '. docker/build_caffe.sh && archive_uris' | head -n 1)
  debootstrap --variant=minbase "$1" "$root" "$archive" >"$folder/debootstrap.log" || tail -n 3 "$folder/debootstrap.log" >&2
  rm -rf "$root"/etc/apt/sources.list "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,info,locale,man}/*
  printf '%s\n' 'Types: deb' "URIs: $archive" "Suites: $1 $1-updates" 'Components: main' \
    'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' >"$root/etc/apt/sources.list.d/debian.sources"
  tar -C "$root" -c . | docker import - "$2" >/dev/null
  rm -rf "$root"
}

start
make_base trixie debian:trixie-slim
make_base bookworm debian:bookworm
"$@"
