"""Thousands of saves behind the training: memory, files and threads stay as many as they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast

#: ``make soak`` makes it 2,000.
SAVES = int(os.environ.get("SOAK_SAVES", "200"))
#: What Python's own free lists and the allocator may add.
SPARE_NBYTES = 8 << 20


@pytest.fixture
def saving():
    """Each test says how it saves."""


@pytest.mark.parametrize("width", ["400", "3000"])
@pytest.mark.parametrize("mode", ["background", "overlap"])
def test_many_saves_leave_no_trace(tmp_path, mode, width):
    """The wider model's checkpoints are written past the page cache (7 MiB), the other's not."""
    # In a process of its own: threads and files of other tests come and go.
    command = [sys.executable, Path(__file__).with_name("soaking.py"), tmp_path, mode]
    command += [str(SAVES), width]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before, after = found["before"], found["after"]
    assert (after["threads"], after["files"]) == (before["threads"], before["files"])
    assert after["nbytes"] - before["nbytes"] < SPARE_NBYTES
    assert found["is_same"]
    steps = [entry.step for entry in holdfast.Run(tmp_path).checkpoints()]
    assert steps == [SAVES - 2, SAVES - 1]
    assert len(list(tmp_path.iterdir())) == 3
    assert holdfast.verify(tmp_path).ok
