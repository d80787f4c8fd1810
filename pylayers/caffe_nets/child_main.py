"""What runs in the child process of `pylayers.caffe_nets.child`: ``python child_main.py REQUEST ANSWER``.

The script imports nothing of the kit: `pylayers doctor` uses it to ask what a Python can import, and the kit may not be
installed there. Where Caffe ends the process, the script writes no answer.
"""

import ctypes
import importlib
import importlib.util
import os
import pickle
import resource
import signal
import sys
import traceback

AT_WORK = "pylayers is at "
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal that comes where the parent ends


def work(request):
    """Calls the function that a request names.

    Args:
        request: a dict with ``path``, the whole of sys.path, or None to leave it; ``first``, folders to put before it;
            ``kit``, whether the module is one of the kit's; ``module``, a module's name or the absolute path of its
            file; ``function``, the name of a function in it; ``arguments``, a tuple, pickled, as what it takes to read
            them may be on that path.

    Returns:
        What the function returns.
    """
    if request["path"] is not None:
        sys.path[:] = request["path"]
    sys.path[:0] = request["first"]
    if request["kit"]:  # whatever else is called pylayers on the path
        _load("pylayers_kit", os.path.join(os.path.dirname(os.path.abspath(__file__)), "kit.py")).bind()
    module = request["module"]
    loaded = _load("pylayers_child_work", module) if os.path.isabs(module) else importlib.import_module(module)
    return getattr(loaded, request["function"])(*pickle.loads(request["arguments"]))


def _load(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def main(request_file, answer_file):
    """Calls the function that a request names, writes what it returns to a file, and ends the process.

    The answer is a dict with ``found``, or with ``mistake``, the text of a UserError. The exit status is 0 where there
    is an answer. Any other exception, a SystemExit too, is written to stderr, and the status is 1.

    Args:
        request_file: the path of the pickled request, see `work`.
        answer_file: the path to write the pickled answer to.
    """
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file where Caffe aborts
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody waits for an answer any more
        with open(request_file, "rb") as file:
            request = pickle.load(file)
        try:
            answer = {"found": work(request)}
        except Exception as error:
            # A UserError is told by its name, since the kit may not be there to import it from.
            if type(error).__name__ != "UserError":
                raise
            answer = {"mistake": str(error)}
        with open(answer_file, "wb") as file:
            pickle.dump(answer, file)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # at once, as threads or exit handlers of a user's module might hold it up


def at(name):
    """Tells what the child handles now, such as a file. If the process ends there, the error message begins with it."""
    print(f"{AT_WORK}{name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    del sys.path[0]  # this script's folder
    main(sys.argv[1], sys.argv[2])
