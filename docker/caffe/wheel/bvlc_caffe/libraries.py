"""The first thing that Caffe imports: it loads CUDA's libraries, which the wheel does not hold."""

import ctypes
import glob
import os
import sys

# What a wheel for CUDA needs, one word each, and the extra that brings it. The build fills these in.
NEEDED = "@NEEDED@"
EXTRA = "@EXTRA@"


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
        f"this Caffe needs {name}: pip install 'bvlc-caffe[{EXTRA}]', which brings NVIDIA's packages, or put the "
        "folder of CUDA's libraries on LD_LIBRARY_PATH"
    )


for library in NEEDED.split():
    load(library)
