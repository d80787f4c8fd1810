# shellcheck shell=bash
# The CUDA side of docker/build_caffe.sh, which reads this file: which CUDA, host compiler and libraries.

cuda=
cuda_arch='75 80 86 89 90' # 75 is the oldest that CUDA 13 knows, 90 the newest that CUDA 12.4 does
cuda_host_compiler=
cuda_version=
with_cudnn=OFF
with_nccl=OFF
cuda_wheels=() # NVIDIA's packages from PyPI, for a toolkit without its libraries, cuDNN and NCCL

check_cuda() {
  [[ -n $cuda ]] || return 0
  command -v nvcc >/dev/null || die "--cuda needs nvcc on PATH (Debian's package nvidia-cuda-toolkit, section non-free)"
  cuda_version=$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  [[ $cuda_version =~ ^1[23]\. ]] ||
    die "CUDA ${cuda_version:-of an unknown version} is not supported; put the nvcc of CUDA 12 or 13 on PATH"
  local known arch
  known=$(nvcc --list-gpu-arch | sed -n 's/^compute_//p' | xargs)
  for arch in $cuda_arch; do
    [[ " $known " == *" $arch "* ]] ||
      die "CUDA $cuda_version has no compute capability $arch; give --cuda-arch some of: $known"
  done
  find_host_compiler
  find_cuda_libraries
  [[ $with_cudnn == OFF ]] || cuda_wheels+=("nvidia-cudnn-cu${cuda_version%%.*}==9.*")
  [[ $with_nccl == OFF ]] || cuda_wheels+=("nvidia-nccl-cu${cuda_version%%.*}")
}

nvcc_takes() { nvcc -x cu -ccbin "$1" -E /dev/null >/dev/null 2>&1; }

# The one that is named, else the first of the installed g++ that nvcc takes: each CUDA has a newest one.
find_host_compiler() {
  local compiler path
  # By its path: nvcc takes some by name that it refuses then.
  for compiler in ${cuda_host_compiler:-g++ $(echo g++-{15..9})}; do
    path=$(command -v "$compiler") && nvcc_takes "$path" && cuda_host_compiler=$path && return
  done
  [[ -z $cuda_host_compiler ]] ||
    die "CUDA $cuda_version does not take --cuda-host-compiler $compiler ($("$compiler" -dumpfullversion 2>/dev/null || echo "no GCC")); name an older g++, or none to have one found"
  die "CUDA $cuda_version takes none of the installed g++; install an older one, or name one with --cuda-host-compiler"
}

# nvcc may come without cuBLAS and cuRAND, as it does from PyPI; then these come from there, too.
find_cuda_libraries() {
  printf '#include <%s>\n' cublas_v2.h curand.h | nvcc -x cu -ccbin "$cuda_host_compiler" -E - >/dev/null 2>&1 && return
  [[ $cuda_version == 13.0 ]] ||
    die "this CUDA $cuda_version lacks the headers of cuBLAS or cuRAND; install them (for CUDA 13.0 alone they come from PyPI)"
  cuda_wheels=('nvidia-cublas==13.0.*' 'nvidia-curand==10.4.0.*' 'nvidia-cuda-runtime==13.0.*')
}

# The folder into which a package puts its headers and libraries.
cuda_wheel_folder() { # cu13, cudnn or nccl
  "$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))' | sed "s:\$:/nvidia/$1:"
}

has_cuda_wheels() { [[ ${cuda_wheels[*]} == *nvidia-cublas* ]]; }

cuda_include() { ! has_cuda_wheels || echo "-I$(cuda_wheel_folder cu13)/include"; }

cuda_options() { # LINKS: a folder for names of libraries that linkers look for
  [[ -n $cuda ]] || { echo -DCPU_ONLY=ON && return; }
  printf '%s\n' -DCPU_ONLY=OFF "-DUSE_CUDNN=$with_cudnn" -DCUDA_ARCH_NAME=Manual \
    "-DCUDA_ARCH_BIN=$cuda_arch" "-DCUDA_ARCH_PTX=${cuda_arch##* }" "-DCUDA_HOST_COMPILER=$cuda_host_compiler"
  # nvcc on PATH may be a link or a script; it knows itself where it is.
  local top
  top=$(nvcc --dryrun -x cu /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
  [[ ! -f $top/include/cuda_runtime.h ]] || echo "-DCUDA_TOOLKIT_ROOT_DIR=$(cd "$top" && pwd)"
  mkdir -p "$1"
  if [[ $with_cudnn == ON ]]; then
    ln -sf "$(cuda_wheel_folder cudnn)"/lib/libcudnn.so.* "$1/libcudnn.so"
    printf '%s\n' "-DCUDNN_INCLUDE=$(cuda_wheel_folder cudnn)/include" "-DCUDNN_LIBRARY=$1/libcudnn.so"
  fi
  if [[ $with_nccl == ON ]]; then
    ln -sf "$(cuda_wheel_folder nccl)"/lib/libnccl.so.* "$1/libnccl.so"
    printf '%s\n' -DUSE_NCCL=ON "-DNCCL_INCLUDE_DIR=$(cuda_wheel_folder nccl)/include" "-DNCCL_LIBRARIES=$1/libnccl.so"
  fi
  has_cuda_wheels || return 0
  local folder library
  folder=$(cuda_wheel_folder cu13)
  for library in "$folder"/lib/lib{cublas,curand}.so.*; do
    ln -sf "$library" "$1/$(basename "${library%.so.*}").so"
  done
  printf '%s\n' "-DCMAKE_LIBRARY_PATH=$1" "-DCUDA_NVCC_FLAGS=$(cuda_include)"
}
