"""examples/fsdp.py under torchrun: run to its end, killed and started again, on another number."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import holdfast

SCRIPT = Path(__file__).parents[2] / "examples" / "fsdp.py"


def torchrun(folder: Path, size: int, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*command, "--nproc-per-node", str(size), str(SCRIPT)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def epochs(folder: Path, size: int) -> dict[int, str]:
    """The losses that a run to the end prints, by epoch."""
    with torchrun(folder, size) as job:
        said, errors = job.communicate(timeout=180)
        assert job.returncode == 0, errors
    return {int(at): loss for at, loss in re.findall(r"epoch (\d+)  loss (\S+)", said)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with holdfast.open(folder / "runs" / "fsdp") as checkpoint:
        names = ("0.weight", "0.bias", "3.weight", "3.bias")
        return {name: checkpoint.tensor(f"model.{name}") for name in names}


def test_it_is_killed_and_goes_on(tmp_path: Path) -> None:
    whole = epochs(tmp_path / "whole", 2)
    with torchrun(tmp_path / "killed", 2) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if line.startswith("epoch 5 "):
                break
        time.sleep(0.05)
        for pid in (*children(job.pid), job.pid):
            os.kill(pid, signal.SIGKILL)
        job.wait(60)
    rest = epochs(tmp_path / "killed", 2)
    assert 4 <= min(rest) <= 19
    assert rest == {at: loss for at, loss in whole.items() if at in rest}
    ours, theirs = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_it_goes_on_with_another_number(tmp_path: Path) -> None:
    epochs(tmp_path / "run", 2)
    run = holdfast.Run(tmp_path / "run" / "runs" / "fsdp")
    before = weights(tmp_path / "run")
    run.pin(19)
    script = SCRIPT.read_text(encoding="utf-8")
    assert "run.steps(20)" in script
    longer = tmp_path / "run" / "longer.py"
    longer.write_text(
        script.replace("run.steps(20)", "run.steps(22)").replace(
            'Path(__file__).with_name("iris.csv")', repr(str(SCRIPT.with_name("iris.csv")))
        ),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "3", str(longer)],
        cwd=tmp_path / "run", capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    assert [int(at) for at in re.findall(r"epoch (\d+)", done.stdout)] == [20, 21]
    with holdfast.open(f"{run.folder}@19") as checkpoint:
        for name, value in before.items():
            assert torch.equal(checkpoint.tensor(f"model.{name}"), value)


def children(pid: int) -> list[int]:
    """What torchrun has started, which has sessions of its own."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(each) for each in found.stdout.split()]
