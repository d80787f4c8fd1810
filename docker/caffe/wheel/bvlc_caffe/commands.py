"""Caffe's commands, as console scripts. Each one's main function lies in a library, and is run in this Python.

So no libpython is needed, and Python layers are found where this Python finds its modules.
"""

import ctypes
import functools
import os
import signal
import sys


def call_main(library, name, *arguments):
    """Calls the main function of a library as that of the program ``name``; returns its exit status."""
    words = [name, *arguments]
    # PyDLL: Caffe calls Python layers, and so must hold Python's lock.
    main = ctypes.PyDLL(library).main
    return main(len(words), (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words)))


def run(tool):
    """Runs one of Caffe's tools with this process's arguments; returns its exit status."""
    try:
        from bvlc_caffe import libraries  # noqa: F401  # CUDA's

        signal.signal(signal.SIGINT, signal.SIG_DFL)
        return call_main(os.path.join(os.path.dirname(__file__), f"lib{tool}.so"), tool, *sys.argv[1:])
    except (ImportError, OSError) as error:  # a library that is missing
        sys.exit(f"{tool}: error: {error}")


caffe = functools.partial(run, "caffe")
upgrade_net_proto_text = functools.partial(run, "upgrade_net_proto_text")
upgrade_net_proto_binary = functools.partial(run, "upgrade_net_proto_binary")
upgrade_solver_proto_text = functools.partial(run, "upgrade_solver_proto_text")
convert_imageset = functools.partial(run, "convert_imageset")
compute_image_mean = functools.partial(run, "compute_image_mean")
