"""What runs in the child process of `pylayers.caffe_nets.child`: ``python child_main.py REQUEST ANSWER``.

It is a script that needs nothing of the kit: `pylayers doctor` asks what this Python can import, and the kit may not be
among it. It writes no answer where the process is ended.
"""

import importlib
import importlib.util
import os
import pickle
import resource
import sys

MISTAKE, AT_WORK = "pylayers: ", "pylayers is at "


def work(request):
    """Does what a request asks.

    Args:
        request: a dict with ``path``, the whole of sys.path, or None to leave it; ``first``, folders to put before it;
            ``kit``, whether the module is one of the kit's; ``module``, a module's name or the path of its file;
            ``function``, one of it; ``arguments``, a tuple, pickled, as what it takes
            to read them may be on that path.

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
    """Does what the request in a file asks; writes the answer to another, or a mistake of the user's to stderr."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # where Caffe aborts: no core file
    with open(request_file, "rb") as file:
        request = pickle.load(file)
    try:
        found = work(request)
    except Exception as error:
        # Known by its name, as there may be no kit to import it from.
        if type(error).__name__ != "UserError":
            raise
        print(f"{MISTAKE}{error}", file=sys.stderr)
        return 1
    with open(answer_file, "wb") as file:
        pickle.dump(found, file)
    return 0


def at(name):
    """Says what the child is at, such as a file: the error message begins with it if the process ends there."""
    print(f"{AT_WORK}{name}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    del sys.path[0]  # this script's folder
    status = answer(sys.argv[1], sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads or exit handlers of a user's module must not hold it up
