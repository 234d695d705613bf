"""Saves and loads that take over a second show a bar, on a terminal and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_SCRIPT = """
import sys
import torch
from torch import nn
import holdfast
from holdfast.io import progress

progress.PATIENCE = float(sys.argv[3])
model = nn.ModuleList(nn.Linear(1024, 1024) for _ in range(8))
what, path = sys.argv[1:3]
if what == "save":
    holdfast.save(model.state_dict(), path + ".new")
elif what == "save_state":
    holdfast.save_state(path + ".new", model=model)
elif what == "run":
    with holdfast.Run(path + ".run", model=model, background=False) as run:
        run.save(0)
elif what == "load":
    holdfast.load(path)
else:
    holdfast.load_state(path, model=model)
"""


def _stderr_of(arguments: list[str], *, on_terminal: bool) -> str:
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    if not on_terminal:
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr
    leader, follower = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stderr=follower, env=environment) as child:
        os.close(follower)
        shown = b""
        while True:
            try:
                data = os.read(leader, 1 << 16)
            except OSError:  # Linux says so when the last one has closed it
                break
            if not data:
                break
            shown += data
    os.close(leader)
    assert child.returncode == 0, shown.decode()
    return shown.decode()


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("progress") / "a"
    _stderr_of(["save_state", str(path), "1000"], on_terminal=False)
    return f"{path}.new"


@pytest.mark.parametrize("what", ["save", "save_state", "run", "load", "load_state"])
def test_what_takes_long_shows_a_bar_on_a_terminal(what, path) -> None:
    shown = _stderr_of([what, path, "0"], on_terminal=True)
    total = "64.1" if what == "load_state" else "32.0"  # it is verified first, and then read
    assert f"{total}/{total} MiB" in shown


def test_what_is_short_shows_none(path) -> None:
    assert "MiB" not in _stderr_of(["load_state", path, "1000"], on_terminal=True)


def test_a_pipe_gets_none(path) -> None:
    assert _stderr_of(["load", path, "0"], on_terminal=False) == ""
