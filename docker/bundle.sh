# shellcheck shell=bash
# docker/build_caffe.sh --bundle, which reads this file: one archive with Caffe and the libraries that it needs, all but
# those of glibc, GCC and CUDA.

bundle= # the archive to write
bundle_limit=40000000 # bytes

check_bundle() {
  [[ -n $bundle ]] || return 0
  local folder
  folder=$(dirname -- "$bundle")
  [[ $bundle == *.tar.xz ]] || die "--bundle takes a file name that ends in .tar.xz, not '$bundle'"
  [[ ! -d $bundle ]] || die "--bundle: '$bundle' is a folder"
  [[ -d $folder ]] || die "--bundle: no folder '$folder'"
  [[ -w $folder ]] || die "--bundle: cannot write to the folder '$folder'"
}

check_python_of_venv() {
  local print='import sys; print("%d.%d" % sys.version_info[:2])' wanted found
  [[ -x $venv/bin/python ]] || return 0
  wanted=$("$python" -c "$print") found=$("$venv/bin/python" -c "$print")
  [[ $wanted == "$found" ]] ||
    die "--python is Python $wanted, and $venv has Python $found; name another folder with --venv"
}

# In a subshell of its own, for the trap.
pack_bundle() (
  step "packing $bundle"
  work=$(mktemp -d "$(dirname -- "$bundle")/.bundle.XXXXXX")
  # shellcheck disable=SC2064  # the folder of this run
  trap "rm -rf '$work'" EXIT
  fill_bundle "$work/caffe"
  tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -cf - caffe | xz -9e >"$work/archive"
  size=$(stat -c %s "$work/archive")
  check_size "$size"
  chmod 644 "$work/archive"
  mv -f "$work/archive" "$bundle"
  step "$bundle has $((size / 10 ** 6)).$((size / 10 ** 5 % 10)) MB; caffe/README.txt in it says how to use it"
)

check_size() { # BYTES
  (($1 <= bundle_limit)) || die "the bundle has $1 bytes, more than $bundle_limit; give fewer architectures with --cuda-arch"
}

fill_bundle() { # TREE: the folder of the package caffe, with all that belongs to it
  local packages
  packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  cp -r "$packages/caffe" "$1"
  find "$1" -name __pycache__ -prune -exec rm -r {} +
  mkdir "$1"/{bin,lib}
  cp "$venv/libexec/caffe.so" "$1/lib/libcaffe_command.so"
  install -m 755 "$here/bundle/caffe.sh" "$1/bin/caffe"
  cp "$here/bundle/command.py" "$1/bin/"
  sed -i '1i from . import _libraries' "$1/__init__.py"
  python_version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  copy_libraries "$1" "$packages/caffe/_caffe.so" "$venv/libexec/caffe.so"
  sed "s/@PYTHON@/$python_version/; s/@CUDA_LIBRARIES@/${cuda_libraries[*]}/" "$here/bundle/libraries.py" >"$1/_libraries.py"
  describe_bundle "$1" >"$1/README.txt"
}

# A name of the bundle's own: a process may hold another library of the same name, as another OpenSSL.
bundled() { if [[ $1 == libcaffe.so* ]]; then echo "$1"; else echo "${1/.so/-caffe.so}"; fi; }

# Sets cuda_libraries to those that are left out, and library_files to the files that the others came from.
copy_libraries() { # TREE FILES: what the files need, into the tree
  local tree=$1 name path file changes=()
  cuda_libraries=() library_files=()
  shift
  while read -r name path; do
    case $name in
      # glibc's and GCC's: a newer system's serve an older program.
      ld-linux* | libc.so* | libm.so* | libmvec.so* | libdl.so* | librt.so* | libpthread.so* | libresolv.so* | \
        libutil.so* | libgcc_s.so* | libstdc++.so*) ;;
      # What others of them need, ldd names last.
      libcuda.so* | libcudart.so* | libcublas*.so* | libcurand.so*) cuda_libraries=("$name" "${cuda_libraries[@]}") ;;
      # It is in the process that imports Caffe.
      libpython*) changes+=(--remove-needed "$name") ;;
      *)
        [[ $path == /* ]] || die "the build needs $name, which is not found"
        cp "$path" "$tree/lib/$(bundled "$name")"
        changes+=(--replace-needed "$name" "$(bundled "$name")")
        library_files+=("$path")
        ;;
    esac
  done < <(ldd "$@" | awk '$2 == "=>" && !seen[$1]++ { print $1, $3 }')
  # One kind of change at a time: patchelf 0.14 mixes up the names otherwise.
  for file in "$tree"/_caffe.so "$tree"/lib/*; do
    patchelf "${changes[@]}" "$file"
    patchelf --set-soname "$(basename "$file")" "$file"
    patchelf --set-rpath '$ORIGIN' "$file"
  done
  patchelf --set-rpath '$ORIGIN/lib' "$tree/_caffe.so"
}

# The newest glibc whose functions are called, such as 2.36.
needed_glibc() { # TREE
  objdump -T "$1/_caffe.so" "$1"/lib/* | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | sed 's/GLIBC_//'
}

describe_bundle() { # TREE
  local cuda_words='the CPU alone' cuda_needs=
  if [[ -n $cuda ]]; then
    cuda_words="CUDA $cuda_version, compute capability $cuda_arch (and PTX of ${cuda_arch##* })"
    cuda_needs="
CUDA's libraries are not in here: ${cuda_libraries[*]}.
They are found in NVIDIA's packages from PyPI (for CUDA 13: nvidia-cublas, nvidia-curand, nvidia-cuda-runtime), in a
toolkit in /usr/local/cuda, or in the folders on LD_LIBRARY_PATH.
"
  fi
  cat <<END
BVLC Caffe $CAFFE_VERSION with Python layers, packed by docker/build_caffe.sh --bundle of pylayers.

Built for: $(uname -m), $cuda_words
Python: $python_version, with numpy>=2, protobuf, scikit-image, six and PyYAML
System: any Linux with glibc $(needed_glibc "$1") or newer, and GCC's libstdc++

The folder caffe goes into site-packages, or into a folder on PYTHONPATH:

    tar -xf $(basename "$bundle") -C FOLDER
    export PYTHONPATH=FOLDER PATH=FOLDER/caffe/bin:\$PATH
    python$python_version -c 'import caffe' && caffe --version
$cuda_needs
The libraries in lib come from these packages of $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release):
END
  # By their names alone, as the package database may have /lib for /usr/lib.
  basename -a "${library_files[@]}" | sed 's:^:*/:' | xargs dpkg-query -S 2>/dev/null | sed 's/: .*//' | sort -u |
    xargs dpkg-query -W 2>/dev/null || true
}
