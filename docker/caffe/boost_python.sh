# shellcheck shell=bash
# Boost.Python for docker/build_caffe.sh, which reads this file: Debian has it for its own Python alone.

boost_python= # the library, where it was compiled here

# For the Python that is built for, compiled in the folder $1 where this machine has none.
find_boost_python() { # FOLDER
  local name
  name=$("$env/bin/python" -c 'import sys; print("libboost_python%d%d.so" % sys.version_info[:2])')
  [[ $(c++ -print-file-name="$name") == "$name" && ! -e /usr/local/lib/$name ]] || return 0
  command -v apt-get >/dev/null || return 0
  mkdir -p "$1/source"
  unpack_boost_python "$1"
  step "compiling Boost.Python for $("$python" -V), which Debian has no package of"
  compile_boost_python "$1" "$name"
}

# From the source package of the Boost whose headers are installed, with Debian's patches.
unpack_boost_python() { # FOLDER
  local package suite patch files=()
  package=boost$(echo BOOST_LIB_VERSION | c++ -x c++ -E -P -include boost/version.hpp - | tail -n 1 | tr -d '"' | tr _ .)
  suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  fetch_package "$suite" "$package" "$1" ||
    die "no archive in apt's sources has the source of $package in $suite, to compile Boost.Python from"
  tar -xf "$1/$package"_*.debian.tar.* -C "$1"
  mapfile -t files < <(cd "$1/debian/patches" && sed 's/[# ].*//; /^$/d' series | xargs grep -l '^+++ .*/libs/python/\(src\|include\)/')
  tar -xf "$1/$package"_*.orig.tar.* -C "$1/source" --strip-components=1 --wildcards '*/libs/python/src/*' '*/libs/python/include/*'
  for patch in "${files[@]}"; do
    patch -d "$1/source" -p1 -s --no-backup-if-mismatch <"$1/debian/patches/$patch" ||
      die "Debian's patch $patch does not apply to $package"
  done
}

compile_boost_python() { # FOLDER NAME
  local include
  include=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  (cd "$1" && find source/libs/python/src -name '*.cpp' ! -path '*/numpy/*' -print0 |
    xargs -0 -P "$jobs" -I{} sh -c 'c++ -c -O2 -fPIC -w -DBOOST_PYTHON_SOURCE -I"$1" -Isource/libs/python/include "$2" -o "$2.o"' - "$include" {}) ||
    die "Boost.Python did not compile"
  # Its symbols of Python come from whoever loads it.
  find "$1/source" -name '*.o' -print0 | xargs -0 c++ -shared -s -Wl,-soname,"$2" -o "$1/$2" || die "Boost.Python did not link"
  boost_python=$1/$2
}

boost_python_options() {
  [[ -z $boost_python ]] || printf '%s\n' -DBoost_NO_BOOST_CMAKE=ON \
    "-DBoost_$(basename "$boost_python" .so | sed 's/libboost_//' | tr a-z A-Z)_LIBRARY_RELEASE=$boost_python"
}
