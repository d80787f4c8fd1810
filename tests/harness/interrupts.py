"""Real SIGINTs at a loss layer that trains: none lost, none that hangs, and the next result right to the last bit.

    python tests/harness/interrupts.py LAYER COUNT [--no-numba]

A second process sends each signal when asked for one, after 0 to 6 ms. The figures go to stdout as JSON.
"""

import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":  # and not where pytest looks for doctests: that changes the session for every test
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ["OMP_NUM_THREADS"] = "2"
    if "--no-numba" in sys.argv:
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np

from harness.nets import EUCLIDEAN, SOFTMAX, fill, load, net_text, python_layer

SENDER = """
import os, random, signal, sys, time
random.seed(1)
while sys.stdin.buffer.read(1):
    time.sleep(random.random() * 6e-3)
    os.kill(int(sys.argv[1]), signal.SIGINT)
"""
PATIENCE = 20  # seconds; a call takes a few milliseconds


def make(name):
    """A net whose loss takes some 2 ms, in several tiles on two threads."""
    values = np.random.default_rng(0)
    if name == SOFTMAX:
        bottoms = {"scores": values.normal(size=(4, 21, 128, 128)), "label": values.integers(0, 21, (4, 128, 128))}
    else:
        bottoms = {"pred": values.normal(size=(40, 50000)), "target": values.normal(size=(40, 50000))}
    bottoms = {key: array.astype(np.float32) for key, array in bottoms.items()}
    net = load(net_text(python_layer(name, list(bottoms)), bottoms))
    fill(net, bottoms)
    return net, next(iter(bottoms))


def run(net, blob):
    """One forward and one backward; the loss and the gradient as bytes."""
    net.forward()
    net.backward()
    return float(net.blobs["loss"].data), net.blobs[blob].diff.tobytes()


def main(name, count):
    """Sends `count` signals and counts what comes of them."""
    net, blob = make(name)
    expected = run(net, blob)
    assert run(net, blob) == expected
    sender = subprocess.Popen([sys.executable, "-c", SENDER, str(os.getpid())], stdin=subprocess.PIPE)
    found = {"layer": name, "sent": 0, "seen": 0, "other exceptions": 0, "wrong": 0, "seconds": 0.0}
    start = time.monotonic()
    for _ in range(count):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)  # where it hangs, or the signal is lost
        found["sent"] += 1
        try:
            sender.stdin.write(b"x")
            sender.stdin.flush()
            while True:
                # From a blob that is never the same, so that nothing of an interrupted call can pass for the next.
                net.blobs["loss"].data[...] = random.random()
                run(net, blob)
        except KeyboardInterrupt:
            found["seen"] += 1
        except BaseException as error:
            found["other exceptions"] += 1
            print(repr(error), file=sys.stderr)
        found["wrong"] += run(net, blob) != expected
    faulthandler.cancel_dump_traceback_later()
    sender.stdin.close()
    sender.wait()
    found["seconds"] = round(time.monotonic() - start, 1)
    print(json.dumps(found))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main({"euclidean": EUCLIDEAN, "softmax": SOFTMAX}[sys.argv[1]], int(sys.argv[2]))
