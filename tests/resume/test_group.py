"""Stop a whole process group, as schedulers do: the loader's workers die before the training."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training without holdfast, never stopped."""
    folder = tmp_path_factory.mktemp("plain")
    command = [sys.executable, HERE / "oracle.py", "batches", "2", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def batches_of(folder: Path) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for line in lines_of(folder):
        step, _, *batch = json.loads(line)
        assert found.setdefault(step, batch) == batch
    return found


def test_a_stopped_group_leaves_no_worker_behind_and_goes_on_exactly(
    tmp_path: Path, start: Start, plain: Path
) -> None:
    for last in (5, 9, 30):
        training = start("talking.py", tmp_path)
        workers = go_on_until(training, last)
        assert len(workers) == 2
        assert all(map(is_running, workers))
        os.killpg(training.process.pid, signal.SIGTERM)
        code, complaints = training.end()
        assert code == 75
        assert "Traceback" not in complaints
        assert not any(map(is_running, workers))
    training = start("talking.py", tmp_path)
    training.tell("\n" * 64)
    code, complaints = training.end()
    assert code == 0, complaints
    assert batches_of(tmp_path) == batches_of(plain)
    assert (tmp_path / "final.json").read_text() == (plain / "final.json").read_text()


def go_on_until(training: Any, last: int) -> list[int]:
    """Let it do steps up to one that it is in then; its workers."""
    while True:
        _, step, *workers = training.read_until("step ").split()
        if int(step) == last:
            return [int(pid) for pid in workers]
        training.tell("")


def test_a_group_stopped_at_any_moment_tries_again_later(tmp_path: Path, plain: Path) -> None:
    chosen = random.Random(3)
    for _ in range(3):
        training = subprocess.Popen(
            [sys.executable, HERE / "kept.py", "batches", "2", tmp_path],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        enough = len(lines_of(tmp_path)) + chosen.randrange(2, 8)
        while len(lines_of(tmp_path)) < enough:
            assert training.poll() is None
        os.killpg(training.pid, signal.SIGTERM)
        _, complaints = training.communicate(timeout=60)
        assert training.returncode == 75, complaints
        assert "Traceback" not in complaints
    done = batches_of(tmp_path)
    assert done.items() <= batches_of(plain).items()
    assert len(done) > 3


def lines_of(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []
