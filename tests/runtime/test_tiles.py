"""The cutting into tiles and the threads."""

import os
import threading
import time

import numpy as np
import pytest

from pylayers.runtime import threads
from pylayers.runtime.tiles import map_tiles, thread_count, tiles


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


@pytest.mark.parametrize("count", ["1", "2", "4"])
def test_results_come_in_order(count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", count)
    assert map_tiles(lambda tile: tile**2, list(range(50))) == [tile**2 for tile in range(50)]


def test_work_is_shared_by_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    seen = set()

    def work(tile):
        seen.add(threading.get_ident())
        time.sleep(0.01)

    map_tiles(work, list(range(20)))
    assert len(seen) == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor")
def test_helpers_keep_off_the_callers_processor(monkeypatch):
    """Beside threads of OpenBLAS that spin, Linux would often let both wait for the caller's."""
    monkeypatch.setattr(threads, "_helpers", threads._Helpers())
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    allowed, caller = os.sched_getaffinity(0), threading.get_native_id()
    found = []

    def work(tile):
        time.sleep(0.02)
        if threading.get_native_id() != caller:
            found.append(os.sched_getaffinity(0))

    for processor in sorted(allowed)[:2]:
        # The caller stays where it is, and is still allowed to run everywhere.
        monkeypatch.setattr(threads, "_processor", lambda number=processor: number)
        found.clear()
        for _ in range(3):  # a helper has to have started before it can be moved
            map_tiles(work, [1, 2, 3, 4])
        assert found[-1] == allowed - {processor}
    assert os.sched_getaffinity(0) == allowed


def test_where_threads_cannot_be_moved_work_goes_on(monkeypatch):
    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(threads, "_helpers", threads._Helpers())
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    for _ in range(2):
        assert map_tiles(lambda tile: tile**2, list(range(20))) == [tile**2 for tile in range(20)]


def test_a_thread_that_comes_too_late_is_not_waited_for(monkeypatch):
    """The one helper is busy with another caller's work."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(threads, "_helpers", threads._Helpers())
    held, release = threading.Event(), threading.Event()
    begun = []

    def hold():
        begun.append(True)
        if len(begun) == 2:
            held.set()
        release.wait(30)

    other = threading.Thread(target=threads.share, args=(hold, 1))
    other.start()
    assert held.wait(10)
    try:
        assert map_tiles(lambda tile: threading.get_ident(), [1, 2]) == [threading.get_ident()] * 2
        assert other.is_alive()
    finally:
        release.set()
        other.join()


def test_an_error_of_the_caller_comes_out_after_all_threads_have_stopped(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    caller, running = threading.get_ident(), []

    def work(tile):
        running.append(tile)
        time.sleep(0.01 if threading.get_ident() == caller else 0.1)
        running.remove(tile)
        if threading.get_ident() == caller:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        map_tiles(work, list(range(20)))
    assert running == []


def test_where_no_thread_can_be_started_the_caller_does_all(monkeypatch):
    def start(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(threads, "_helpers", threads._Helpers())
    monkeypatch.setattr("_thread.start_new_thread", start)
    assert map_tiles(lambda tile: threading.get_ident(), list(range(20))) == [threading.get_ident()] * 20
    assert threads._helpers._shares.empty()  # what nobody will take is not kept


def test_an_error_of_another_thread_comes_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    caller = threading.get_ident()

    def work(tile):
        time.sleep(0.01)
        if threading.get_ident() != caller:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        map_tiles(work, list(range(20)))


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("0", None), ("", None), ("-2", None), ("many", None)])
def test_thread_count(text, count, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert thread_count() == (count or len(os.sched_getaffinity(0)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # it is, on purpose
def test_a_child_process_has_threads_of_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    map_tiles(str, list(range(20)))
    child = os.fork()
    if child == 0:
        os._exit(map_tiles(str, list(range(20))) != [str(tile) for tile in range(20)])
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
def test_tiles_are_alike_and_even_in_number(length, columns, size):
    found = tiles(length, columns, size)
    sizes = [(last - first) * (right - left) for first, last, left, right in found]
    assert len(found) % 2 == 0
    assert min(sizes) > 0.8 * max(sizes)
