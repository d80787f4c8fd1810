"""Work done in a child process, since Caffe ends the process where a net is wrong; and Caffe's last words.

The child is a new Python and not a fork of this one, since a fork of a process with threads can hang. The BLAS and the
losses have such threads.
"""

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Optional

from pylayers.caffe_nets.child_main import AT_WORK
from pylayers.errors import UserError

# Seconds after which an import, or the building of a net, is taken to hang.
TIMEOUT = 120
_SCRIPT = Path(__file__).with_name("child_main.py")


class Answer(NamedTuple):
    """What came of a request to a child process.

    Attributes:
        found: what the function returned; None where the process ended without an answer.
        log: all that the process wrote to stdout and stderr.
        status: its exit status, negative for a signal; None where it hung.
        timeout: the seconds that the process was given; None for no limit.
        mistake: the text of the UserError that the function raised, or None.
        is_answered: whether the function returned.
    """

    found: Any
    log: str
    status: Optional[int]
    timeout: Optional[float] = TIMEOUT
    mistake: Optional[str] = None
    is_answered: bool = False

    @property
    def end(self):
        """How the process ended, in words, where there is no answer."""
        if self.status is None:
            return f"does not come to an end within {self.timeout} s"
        if self.status < 0:
            return f"ends the process with {signal.Signals(-self.status).name}"
        return f"ends the process with status {self.status}"


def ask(module, function, *arguments, first=(), path=None, timeout=None, **environment):
    """Calls a function in a child process.

    Args:
        module: the module's name, or the absolute path of its file.
        function: the name of a function in it.
        *arguments: the function's arguments. They are pickled, and so is what it returns.
        first: folders to put before the child's module path.
        path: the child's whole module path. By default it is that of ``caffe train``: PYTHONPATH and the installed
            packages, without the current folder.
        timeout: seconds after which the child is taken to hang, and ended; none by default.
        **environment: environment variables that the child gets beside those of this process.

    Returns:
        An `Answer`.
    """
    request = {"path": path, "first": list(first), "module": module, "function": function}
    request["arguments"] = pickle.dumps(arguments)
    request["kit"] = module.split(".")[0] == "pylayers"
    with tempfile.TemporaryDirectory() as folder:
        question, answer, log = (Path(folder, name) for name in ("request", "answer", "log"))
        question.write_bytes(pickle.dumps(request))
        status = run_child(question, answer, log, timeout, environment)
        given = pickle.loads(answer.read_bytes()) if status == 0 and answer.exists() else {}
        text = log.read_text(encoding="utf-8", errors="replace")
        return Answer(given.get("found"), text, status, timeout, given.get("mistake"), "found" in given)


def run_child(question, answer, log, timeout, environment):
    """Runs the child process.

    Args:
        question: the path of the file with the pickled request.
        answer: the path where the child writes the pickled answer.
        log: the path for all that it writes to stdout and stderr.
        timeout: seconds after which the child is taken to hang, and ended; None for no limit.
        environment: a dict of environment variables that the child gets beside those of this process.

    Returns:
        The child's exit status, or None where it hung.
    """
    with open(log, "wb") as written:
        process = subprocess.Popen(
            [sys.executable, _SCRIPT, question, answer],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # it hangs, or the user has interrupted this process
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def call(function, *arguments, name):
    """Calls a function of the kit in a child process that has this process's module path.

    Args:
        function: a function of a module.
        *arguments: the function's arguments. They are pickled, and so is what it returns.
        name: what the function handles, such as a file. It begins the error message, unless the function has named
            something else with `child_main.at`.

    Returns:
        What the function returns.

    Raises:
        UserError: the function raised an exception or ended the process; the message is the reason, in one line.
    """
    answer = ask(function.__module__, function.__qualname__, *arguments, path=sys.path)
    for line in dict.fromkeys(re.findall(r"^\S.*\b\w*Warning: .*", answer.log, re.MULTILINE)):
        print(line, file=sys.stderr)
    if not answer.is_answered:
        raise UserError(answer.mistake or f"{_at_work(answer.log) or name}: {reason(answer.log, answer.status)}")
    return answer.found


def _at_work(log):
    """What the child last named with `child_main.at`, or None."""
    said = [line[len(AT_WORK) :] for line in log.splitlines() if line.startswith(AT_WORK)]
    return said[-1] if said else None


def fatal(log):
    """The message with which Caffe ended a process, taken from the log; None where Caffe did not end it."""
    match = re.search(r"^F\d{4,8} [^\]]*\] (.*)", log, re.MULTILINE)
    return match and re.sub(r" \(known types: .*", "", match[1].strip())


def reason(log, status):
    """The line that says why a process ended, from its log and its exit status."""
    said = fatal(log)
    if said:
        return f"Caffe says: {said}"
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(AT_WORK)]
    # The first exception is the cause: Boost.Python prints it, and raises a SystemError that says less.
    for line in lines:
        if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line):
            return line
    folder = tempfile.gettempdir()
    if not shutil.disk_usage(folder).free:
        return f"nothing can be tried, since the disk with {folder} is full; TMPDIR names another folder"
    return f"Caffe ended the process with status {status}" + (f": {lines[-1]}" if lines else "")
