"""Every block of docs/programs.md is run, and its commands are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.out = nn.Linear(8, 4)

    def forward(self, images):
        return self.out(self.backbone(images).mean((2, 3)))
"""

GIVEN = """
import torch
from net import Net

import holdfast

torch.manual_seed(0)
model, other = Net(), Net()
example = torch.randn(4, 3, 32, 32)
keep = holdfast.keep.best("loss")
with holdfast.Run("runs/net", background=False, keep=keep, model=model) as run:
    run.save(3, metrics={"loss": 0.5})
"""

WANTED = """
assert scores.shape == (8, 4)
assert report.parent["step"] == 3
assert module.training
assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "net.py").write_text(NET)
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    (folder / "script.py").write_text(GIVEN + "\n\n".join(blocks) + WANTED)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_blocks_run_in_order(ran: tuple[Path, str]) -> None:
    _, printed = ran
    assert "model.pt2: torch.export by torch.export" in printed
    assert "takes images: float32 [batch, 3, 32, 32]" in printed
    assert "output (float32): largest difference" in printed


def test_the_commands_run(ran: tuple[Path, str]) -> None:
    folder, _ = ran
    np.save(folder / "x.npy", np.zeros((2, 3, 32, 32), dtype=np.float32))
    [block] = re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    commands = [line.removeprefix("$ ") for line in block.splitlines()]
    assert len(commands) == 3
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PATH": path},
        )
        assert done.returncode == 0, done.stderr
    with np.load(folder / "scores.npz") as saved:
        assert saved["output"].shape == (2, 4)
