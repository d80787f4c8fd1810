"""The caffe command of a bundle: its main function, in a library, is run in this Python.

So no libpython is needed, and Python layers are found where this Python finds its modules.
"""

import ctypes
import os
import runpy
import signal
import sys

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

sys.path[:] = [folder for folder in sys.path if folder != os.path.join(PACKAGE, "bin")]  # where this file is
sys.path.append(os.path.dirname(PACKAGE))
try:
    runpy.run_path(os.path.join(PACKAGE, "_libraries.py"))
except ImportError as error:
    sys.exit(f"caffe: error: {error}")
signal.signal(signal.SIGINT, signal.SIG_DFL)
# PyDLL: Caffe calls Python layers, and so must hold Python's lock.
main = ctypes.PyDLL(os.path.join(PACKAGE, "lib/libcaffe_command.so")).main
arguments = [b"caffe", *map(os.fsencode, sys.argv[1:])]
sys.exit(main(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments)))
