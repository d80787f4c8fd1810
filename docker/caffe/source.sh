# shellcheck shell=bash
# Caffe's source for docker/build_caffe.sh, which reads this file: fetched, checked and patched.

readonly CAFFE_VERSION='1.0.0+git20180821.99bd997'
readonly CAFFE_DEBIAN_REVISION=8
readonly CAFFE_COMMIT=99bd99795dcdf0b1d3086a8d67ab1782a8a08383
# The files that the build reads, and their checksum (see files_sha256), wherever they were fetched from.
readonly CAFFE_FILES=(CMakeLists.txt cmake include src python tools models examples)
readonly CAFFE_SHA256=70766204172dcc8b19543a329847e88fdfa2b82790e1e5be0b7e4d0533707e20
readonly CAFFE_SUITE=bullseye # the Debian suite whose source packages include Caffe

tarball=
upstream=https://github.com/BVLC/caffe

# The archives of this Debian release that apt has lists of, a URI a line.
archive_uris() {
  apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk -v suite="$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)" '$1 == "Debian" && $2 == suite { print $3 }' | sort -u
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
  for uri in $(archive_uris); do
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
  (cd "$1" && { find "${CAFFE_FILES[@]}" -type f -print0 2>/dev/null || true; } | LC_ALL=C sort -z | xargs -0 -r sha256sum |
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
  local found from=${tarball:-$upstream}
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
}

patch_source() { # FOLDER
  local patch
  for patch in "$here"/caffe/patches/*.patch; do
    patch -d "$1" -p1 -s --fuzz=0 --no-backup-if-mismatch <"$patch" ||
      die "docker/caffe/patches/$(basename "$patch") does not apply"
  done
}

