"""Threads that are there before the work is."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from holdfast.io.threads import Job, Threads, each_of


def test_calls_are_done_and_their_errors_kept() -> None:
    threads = Threads(2, "test")
    done = []
    jobs = [threads.submit(lambda number=number: done.append(1 // number)) for number in (1, 0, 2)]
    for job in jobs:
        job.wait()
        assert job.done
    assert sorted(done) == [0, 1]
    assert [type(job.error) for job in jobs] == [type(None), ZeroDivisionError, type(None)]


def test_two_calls_run_at_once() -> None:
    threads, meeting = Threads(2, "test"), threading.Barrier(2, timeout=20)
    jobs = [threads.submit(meeting.wait) for _ in range(2)]
    for job in jobs:
        job.wait()
    assert [job.error for job in jobs] == [None, None]


def test_what_a_call_holds_is_let_go_when_it_ends() -> None:
    class Thing:
        pass

    thing = Thing()
    seen = weakref.ref(thing)
    job = Threads(1, "test").submit(lambda thing=thing: None)
    del thing
    job.wait()
    assert seen() is None


def test_what_a_failed_call_had_in_hand_is_let_go_though_its_error_is_kept() -> None:
    class Thing:
        pass

    seen = []

    def fail() -> None:
        thing = Thing()
        seen.append(weakref.ref(thing))
        try:
            raise OSError(thing.__class__.__name__)
        except OSError as error:
            raise ValueError("of that") from error

    job = Threads(1, "test").submit(fail)
    job.wait()
    assert isinstance(job.error, ValueError)
    assert seen[0]() is None


def meet(barrier: threading.Barrier) -> int:
    barrier.wait()
    return threading.get_ident()


def test_several_threads_work_on_each_of_many() -> None:
    assert each_of(lambda number: number * number, range(100), 4) == [n * n for n in range(100)]
    barrier = threading.Barrier(3, timeout=20)
    found = each_of(lambda _: meet(barrier), range(3), 3)
    assert len(set(found)) == 3
    assert threading.get_ident() not in found
    assert each_of(str, [], 4) == []


def test_without_a_thread_the_caller_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    found = each_of(lambda number: (number, threading.get_ident()), [1, 2], 4)
    assert found == [(1, threading.get_ident()), (2, threading.get_ident())]


def test_the_first_error_is_raised_and_the_rest_is_left() -> None:
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        if number in (3, 4):
            raise ValueError(str(number))

    for count in (0, 2):
        begun.clear()
        with pytest.raises(ValueError, match=r"^3$"):
            each_of(fail, range(1000), count)
        assert len(begun) < 10


def test_nothing_runs_any_more_after_an_interruption() -> None:
    running, main = [], threading.main_thread().ident
    assert main is not None

    def interrupt(number: int) -> None:
        running.append(number)
        if number == 1:
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.2)
        running.remove(number)

    with pytest.raises(KeyboardInterrupt):
        each_of(interrupt, range(1000), 2)
    assert running == []


def test_work_is_taken_while_the_interpreter_exits() -> None:
    code = (
        "import atexit\n"
        "from holdfast.io.threads import Threads\n"
        "threads = Threads(1, 'test')\n"
        "def last():\n"
        "    threads.submit(lambda: print('done', flush=True)).wait()\n"
        "atexit.register(last)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "done\n", ended.stderr


def test_a_job_that_is_given_twice_is_done_once() -> None:
    done: list[int] = []
    job = Job(lambda: done.append(1))
    threads = Threads(2, "test")
    for _ in range(2):
        threads.do(job)
    job.wait()
    job.run()
    assert done == [1]


def test_where_not_all_can_be_started_none_stays(monkeypatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == "some-2":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Threads(4, "some")
    until = time.monotonic() + 5
    while any(thread.name.startswith("some-") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_job_that_is_dropped_has_ended_and_is_done_by_nobody() -> None:
    done: list[int] = []
    job = Job(lambda: done.append(1))
    job.drop()
    job.run()
    job.wait()
    assert done == []


def test_a_job_that_is_being_done_is_not_dropped() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), list[int]()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        done.append(1)

    job = Threads(1, "one").submit(work)
    assert begun.wait(10)
    job.drop()
    assert not job.done
    go_on.set()
    job.wait()
    assert done == [1]
