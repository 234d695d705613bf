"""Threads that are there before the work is."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref

from holdfast.io.threads import Threads


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
