"""Whose signal handlers are in place when: in this process, before, during and after a loop."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch

import holdfast

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def run_in(folder: Path, **options: object) -> holdfast.Run:
    return holdfast.Run(folder, model=torch.nn.Linear(2, 2), **options)


def own(number: int, frame: FrameType | None) -> None:
    """A handler that was there before."""


@pytest.fixture
def before() -> Iterator[list[object]]:
    """Handlers of three kinds: Python's, the system's, and one that ignores."""
    saved = [signal.getsignal(number) for number in NUMBERS]
    mine = [own, signal.SIG_DFL, signal.SIG_IGN]
    for number, handler in zip(NUMBERS, mine, strict=True):
        signal.signal(number, handler)
    yield mine
    for number, handler in zip(NUMBERS, saved, strict=True):
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in NUMBERS]


def test_former_handlers_come_back_after_the_loop(tmp_path: Path, before: list[object]) -> None:
    run = run_in(tmp_path)
    for _ in run.steps(2):
        assert not any(now is then for now, then in zip(handlers(), before, strict=True))
        run.save()
    assert handlers() == before


def test_former_handlers_come_back_when_the_body_breaks_or_fails(
    tmp_path: Path, before: list[object]
) -> None:
    run = run_in(tmp_path)
    for _ in run.steps(3):
        break
    assert handlers() == before

    def fail() -> None:
        for _ in run.steps(3):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    # The traceback still holds the loop; closing the run must do.
    run.close()
    assert handlers() == before


def test_former_handlers_come_back_after_a_stop(tmp_path: Path, before: list[object]) -> None:
    run = run_in(tmp_path)

    def stop() -> None:
        for _ in run.steps(3):
            signal.raise_signal(signal.SIGUSR1)
            run.save()

    with pytest.raises(SystemExit) as left:
        stop()
    assert left.value.code == 75
    assert handlers() == before


def test_a_loop_of_ones_own_asks_should_stop(tmp_path: Path, before: list[object]) -> None:
    run = run_in(tmp_path)
    step = run.resume()
    assert handlers() == before
    while not run.should_stop:
        run.save(step)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        step += 1
    assert step == 3
    run.close()
    assert handlers() == before


def test_outside_the_main_thread_a_run_works_and_warns_that_it_sees_no_signal(
    tmp_path: Path, before: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_in(tmp_path)
    done = []

    def train() -> None:
        for step in run.steps(3):
            assert handlers() == before
            run.save()
            done.append(step)
        run.close()

    with caplog.at_level(logging.WARNING, "holdfast"):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert done == [0, 1, 2]
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        f"No checkpoint in {tmp_path}, starting at 0",
        "this Run is used outside the main thread, where signals cannot be handled: SIGTERM will "
        "stop the process without a last save",
    ]


def test_a_forked_child_has_the_former_handlers(tmp_path: Path, before: list[object]) -> None:
    run = run_in(tmp_path)
    for _ in run.steps(1):
        child = os.fork()
        if child == 0:
            os._exit(0 if handlers() == before and not blocked() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert handlers() != before
        assert not blocked()
        run.save()


def blocked() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_forked_child_has_the_handlers_from_before_all_loops(
    tmp_path: Path, before: list[object]
) -> None:
    # In which order two loops gave their handlers back was up to their addresses.
    runs = [run_in(tmp_path / str(number)) for number in range(8)]
    assert not any(run.should_stop for run in runs)
    child = os.fork()
    if child == 0:
        os._exit(0 if handlers() == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for run in reversed(runs):
        run.close()


def test_former_handlers_come_back_in_whatever_order_runs_are_closed(
    tmp_path: Path, before: list[object]
) -> None:
    first, second, third = (run_in(tmp_path / str(number)) for number in range(3))
    assert not any(run.should_stop for run in (first, second, third))
    second.close()
    first.close()
    signal.raise_signal(signal.SIGTERM)
    assert third.should_stop
    third.close()
    assert handlers() == before
    assert not first.should_stop
    first.close()


def test_a_run_that_was_stopped_can_go_on_in_the_same_process(
    tmp_path: Path, before: list[object]
) -> None:
    run = run_in(tmp_path)

    def train(stop_at: int) -> list[int]:
        done = []
        try:
            for step in run.steps(6):
                done.append(step)
                if step == stop_at:
                    signal.raise_signal(signal.SIGINT)
                run.save()
        except KeyboardInterrupt:
            return done
        return done

    assert train(2) == [0, 1, 2]
    assert train(6) == [3, 4, 5]
    assert handlers() == before
