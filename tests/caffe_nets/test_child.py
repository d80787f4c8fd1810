"""Child processes, real ones: what ends them, what they leave, and what a user's code in them may do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pylayers.caffe_nets import child
from pylayers.errors import UserError

WORK = """
import os, sys, threading, time
from pylayers.errors import UserError

def fine(number):
    print("pylayers: said by a user's layer")
    return number + 1

def warns():
    import warnings
    for _ in range(3):
        warnings.warn("this is slow", RuntimeWarning)

def mistake():
    print("pylayers: loading weights")
    raise UserError("there is no such layer")

def error():
    print("pylayers: loading weights")
    raise ValueError("the true reason")

def exits(): sys.exit(0)
def ends(): os._exit(0)
def unpicklable(): return lambda: 0

def thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    raise ValueError("boom")

def names_of_the_kits_own_modules():
    import labels
    return labels.__file__
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "users_work.py").write_text(WORK)
    (tmp_path / "labels.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import users_work

    yield users_work
    del sys.modules["users_work"]


def test_what_a_function_returns_comes_back_whatever_it_prints(work):
    assert child.call(work.fine, 4, name="the work") == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mistake", "there is no such layer"),
        ("error", "the work: ValueError: the true reason"),
        ("exits", "the work: SystemExit: 0"),
        ("ends", "the work: Caffe ended the process with status 0"),
        ("unpicklable", "the work: .*Error: .*(pickle|local object)"),
        ("thread", "the work: ValueError: boom"),
    ],
)
def test_no_answer_is_an_error_and_never_hangs(work, name, message):
    start = time.monotonic()
    with pytest.raises(UserError, match=f"^{message}"):
        child.call(getattr(work, name), name="the work")
    assert time.monotonic() - start < 30


def test_a_warning_is_passed_on(work, capfd):
    child.call(work.warns, name="the work")
    assert capfd.readouterr().err.count("RuntimeWarning: this is slow") == 1


def test_a_users_module_may_have_the_name_of_one_of_the_kits(work, tmp_path):
    found = child.call(work.names_of_the_kits_own_modules, name="the work")
    assert found == str(tmp_path / "labels.py")


def test_a_command_that_is_ended_takes_its_child_along(tmp_path):
    (tmp_path / "slow_work.py").write_text(
        "import os, time\ndef work():\n    open('pid', 'w').write(str(os.getpid()))\n    time.sleep(120)\n"
    )
    code = "from pylayers.caffe_nets import child; import slow_work; child.call(slow_work.work, name='work')"
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    number = int((tmp_path / "pid").read_text())
    parent.send_signal(signal.SIGTERM)
    parent.wait()
    while os.path.exists(f"/proc/{number}") and time.monotonic() < deadline:
        if " Z" in Path(f"/proc/{number}/stat").read_text().partition(")")[2][:3]:
            break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{number}")
