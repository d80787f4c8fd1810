"""Child processes that start in some 20 ms: forks of a server that has imported Caffe, in place of new Pythons.

`pylayers.caffe_nets.child` starts a new Python for each request. That takes about a second, most of it for the import
of Caffe. The server is the standard library's: a process of one thread, so that its forks are safe.
"""

import faulthandler
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from pathlib import Path

from pylayers.caffe_nets import child_main

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["caffe", "numba", "pylayers.gradient_check", "pylayers.tools.compare.two_nets"])


def start():
    """Starts the server, so that it does not take over what a test has done to this process by then, such as limits."""
    folder = os.getcwd()
    os.chdir(Path(__file__).parent)  # where it starts is first on its path, and the clone holds pylayers
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(folder)


def run_child(question, answer, log, timeout, environment):
    """Does what `child.run_child` does, with the same arguments, in a fork of the server."""
    variables = {**os.environ, **environment}
    arguments = question, answer, log, variables, os.getcwd(), list(sys.path)
    process = _SERVER.Process(target=_work, args=arguments, daemon=True)
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _work(question, answer, log, variables, folder, path):
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    # The module path of a new Python: with PYTHONPATH, and without the folders of the tests.
    sys.path[:] = [*filter(None, variables.get("PYTHONPATH", "").split(os.pathsep)), *_packages(path)]
    faulthandler.disable()  # an abort is expected
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    child_main.main(question, answer)


def _packages(path):
    """The folders of a module path that are Python's own: its library, and the installed packages."""
    return [folder for folder in path if folder.startswith((sys.prefix, sys.base_prefix)) and "python3" in folder]
