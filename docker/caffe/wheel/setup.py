"""The metadata of the wheel bvlc-caffe. docker/build_caffe.sh runs this in the folder with the wheel's packages."""

import os
from pathlib import Path

from setuptools import setup
from setuptools.dist import Distribution

POST = 1  # raised where a change to the build changes the wheel for its users
LOCAL = os.environ["CAFFE_LOCAL"]  # what was built, such as "", "opencv", "cu12" or "cu13.cudnn.nccl.opencv"
TOOLS = [path.stem.removeprefix("lib") for path in Path("bvlc_caffe").glob("lib*.so")]
BUILT = os.environ["CUDA_VERSION"]  # such as 12.4: older libraries may lack what it calls
CUDA = {
    "cu12": [f"nvidia-cublas-cu12>={BUILT}", f"nvidia-cuda-runtime-cu12>={BUILT}", "nvidia-curand-cu12"],
    "cu13": [f"nvidia-cublas>={BUILT},<14", f"nvidia-cuda-runtime>={BUILT},<14", "nvidia-curand==10.*"],
}
FOR = LOCAL.split(".")[0]
CUDNN = [f"nvidia-cudnn-{FOR}==9.*"] if "cudnn" in LOCAL.split(".") else []
NCCL = [f"nvidia-nccl-{FOR}"] if "nccl" in LOCAL.split(".") else []


class WithBinaries(Distribution):
    """The packages hold binaries, and so belong to one version of Python."""

    def has_ext_modules(self):
        return True


setup(
    name="bvlc-caffe",
    version=f"1.0.0.post{POST}" + (f"+{LOCAL}" if LOCAL else ""),
    description="BVLC Caffe 99bd997 with Python layers, for today's Python",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause; each library inside has its own, see the folder licenses",
    license_files=["licenses/*"],
    distclass=WithBinaries,
    packages=["bvlc_caffe", "caffe", "caffe.imagenet", "caffe.proto"],
    package_data={"bvlc_caffe": ["*.so*"], "caffe": ["*.so", "imagenet/*"]},
    entry_points={"console_scripts": [f"{tool} = bvlc_caffe.commands:{tool}" for tool in sorted(TOOLS)]},
    # Protobuf: tried from 4.21, for whose protoc Debian 12 and 13 make Caffe's Python file, to 7.36.
    install_requires=["numpy>=2", "protobuf>=4.21,<8", "six"],
    extras_require={
        "image": ["scikit-image"],  # caffe.io.load_image, resize_image, and what calls them
        "draw": ["pydot"],
        **({f"cuda{FOR[2:]}": CUDA[FOR] + CUDNN + NCCL} if FOR in CUDA else {}),
    },
)
