"""The cutting into pieces and the threads."""

import os
import threading
import time

import numpy as np
import pytest

from pylayers.runtime.tiles import _pool, map_tiles, thread_count, tiles


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 16, 100])
def test_tiles_cover_each_cell_once(rows, columns, size):
    covered = np.zeros((rows, columns), int)
    for first, last, left, right in tiles(rows, columns, size):
        tile = covered[first:last, left:right]
        tile += 1
        assert tile.size <= max(size, 1)
    assert (covered == 1).all()


@pytest.mark.parametrize("threads", ["1", "2", "4"])
def test_results_come_in_order(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert map_tiles(lambda piece: piece**2, list(range(50))) == [piece**2 for piece in range(50)]


def test_work_is_shared_by_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    seen = set()

    def work(piece):
        seen.add(threading.get_ident())
        time.sleep(0.01)

    map_tiles(work, list(range(20)))
    assert len(seen) == 2


def test_a_thread_that_comes_too_late_is_not_waited_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    held, release = threading.Event(), threading.Event()

    def hold():
        held.set()
        release.wait(3)

    holding = _pool(1).submit(hold)
    assert held.wait(10)
    try:
        assert map_tiles(lambda piece: threading.get_ident(), [1, 2]) == [threading.get_ident()] * 2
        assert not holding.done()
    finally:
        release.set()


def test_an_error_of_the_caller_comes_out_after_all_threads_have_stopped(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    caller, running = threading.get_ident(), []

    def work(piece):
        running.append(piece)
        time.sleep(0.01 if threading.get_ident() == caller else 0.1)
        running.remove(piece)
        if threading.get_ident() == caller:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        map_tiles(work, list(range(20)))
    assert running == []


def test_a_thread_that_cannot_start_leaves_none_running(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    pool, running, submitted = _pool(2), [], []

    def submit(take):
        if submitted:
            raise RuntimeError("can't start new thread")
        submitted.append(type(pool).submit(pool, take))
        time.sleep(0.05)
        return submitted[0]

    def work(piece):
        running.append(piece)
        time.sleep(0.02)
        running.remove(piece)

    monkeypatch.setattr(pool, "submit", submit)
    with pytest.raises(RuntimeError, match="new thread"):
        map_tiles(work, list(range(20)))
    assert running == []
    assert submitted[0].done()


def test_an_error_of_another_thread_comes_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    caller = threading.get_ident()

    def work(piece):
        time.sleep(0.01)
        if threading.get_ident() != caller:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        map_tiles(work, list(range(20)))


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("0", None), ("", None), ("-2", None), ("many", None)])
def test_thread_count(text, count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert thread_count() == (count or len(os.sched_getaffinity(0)))


def test_a_child_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    map_tiles(str, list(range(20)))
    child = os.fork()
    if child == 0:
        os._exit(map_tiles(str, list(range(20))) != [str(piece) for piece in range(20)])
    for _ in range(500):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        pytest.fail("the child waits for threads that it does not have")
    assert status == 0


@pytest.mark.parametrize(
    ("length", "columns", "size"),
    [(128, 10000, 2**20), (2, 65536, 49932), (84, 1000, 3000), (90, 1000, 31000)],
)
def test_pieces_are_alike_and_even_in_number(length, columns, size):
    pieces = tiles(length, columns, size)
    sizes = [(last - first) * (right - left) for first, last, left, right in pieces]
    assert len(pieces) % 2 == 0
    assert min(sizes) > 0.8 * max(sizes)
