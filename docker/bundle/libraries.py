"""The first thing that a bundled Caffe imports: it finds CUDA's libraries, which a bundle does not hold.

`docker/build_caffe.sh --bundle` puts this file into the package `caffe`, as `_libraries.py`, its constants filled in.
"""

import ctypes
import glob
import os
import sys

PYTHON = "@PYTHON@"
CUDA_LIBRARIES = "@CUDA_LIBRARIES@"  # one word each; what others of them need comes first


def load(name):
    """Loads a library so that Caffe's finds it by its name."""
    # CUDA 12's packages have a folder each, those of CUDA 13 share one.
    folders = [os.path.join(glob.escape(folder), "nvidia/*/lib") for folder in sys.path]
    folders += ["/usr/local/cuda/lib64", "/usr/local/cuda-*/lib64"]
    found = [path for folder in folders for path in sorted(glob.glob(os.path.join(folder, name)))]
    # By its bare name: in this process already, on LD_LIBRARY_PATH, or among the system's libraries.
    for path in [name, *found]:
        try:
            ctypes.CDLL(path)
        except OSError:
            continue
        return
    raise ImportError(
        f"this Caffe needs {name}: install NVIDIA's packages from PyPI (caffe/README.txt names them), or put the "
        "folder of CUDA's libraries on LD_LIBRARY_PATH"
    )


if "{}.{}".format(*sys.version_info) != PYTHON:
    raise ImportError(f"this Caffe is built for Python {PYTHON}, and this is {sys.version.split()[0]}")
for library in CUDA_LIBRARIES.split():
    load(library)
