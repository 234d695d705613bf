"""torchrun starts all ranks again, with the store that they had before: its notes are of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import holdfast

SCRIPT = Path(__file__).parents[1] / "support" / "restarted.py"


def test_ranks_that_are_started_again_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", "2", "--max-restarts", "3"]
    done = subprocess.run(
        [*command, *options, str(SCRIPT), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert {"start 0", "start 1", "start 2"} <= set(done.stdout.splitlines())  # killed twice
    last = holdfast.Run(tmp_path / "run").latest()
    assert last is not None
    assert last.step == 11
    assert holdfast.verify(tmp_path / "run").status == "good"
