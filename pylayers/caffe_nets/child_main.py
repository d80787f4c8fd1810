"""What runs in the child process of `pylayers.caffe_nets.child`: ``python child_main.py REQUEST ANSWER``.

The script imports nothing of the kit: `pylayers doctor` uses it to ask what a Python can import, and the kit may not be
installed there. Where Caffe ends the process, the script writes no answer.
"""

import importlib
import importlib.util
import os
import pickle
import resource
import sys

MISTAKE, AT_WORK = "pylayers: ", "pylayers is at "


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


def answer(request_file, answer_file):
    """Calls the function that a request names, and writes what it returns to a file.

    Args:
        request_file: the path of the pickled request, see `work`.
        answer_file: the path to write the pickled answer to.

    Returns:
        The exit status: 0, or 1 for a mistake of the user's (UserError), which is written to stderr in one line.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file where Caffe aborts
    with open(request_file, "rb") as file:
        request = pickle.load(file)
    try:
        found = work(request)
    except Exception as error:
        # A UserError is told by its name, since the kit may not be there to import it from.
        if type(error).__name__ != "UserError":
            raise
        print(f"{MISTAKE}{error}", file=sys.stderr)
        return 1
    with open(answer_file, "wb") as file:
        pickle.dump(found, file)
    return 0


def at(name):
    """Tells what the child handles now, such as a file. If the process ends there, the error message begins with it."""
    print(f"{AT_WORK}{name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    del sys.path[0]  # this script's folder
    status = answer(sys.argv[1], sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once, as threads or exit handlers of a user's module might hold it up
