"""Every code block of docs/recipes.md and saving.md is run; recipes are as short as they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import holdfast

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def blocks_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = blocks_of(TEXT)

#: What the recipes may take for granted, as their reader has it.
GIVEN = """
import torch
from torch import nn

import holdfast


def make_model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def train_some_more(model, optimizer):
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()


torch.manual_seed(0)
model, generator, discriminator = make_model(), make_model(), make_model()
models = (model, generator, discriminator)
optimizer, g_opt, d_opt = (torch.optim.Adam(each.parameters()) for each in models)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
other = nn.ModuleDict({"first": nn.Linear(4, 8), "3": nn.Linear(8, 10)})
loss, epoch = 0.5, 7
before = {name: value.clone() for name, value in model.state_dict().items()}
"""

#: What must be true when all have been run.
WANTED = """
assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
assert torch.equal(other["first"].weight, model[0].weight)
assert torch.equal(empty[3].bias, model[3].bias)
assert report["net"].differing[0][0] == "3.weight"
assert len(run.checkpoints()) == 3
"""


def output_of(blocks: list[str], folder: Path, wanted: str = "") -> str:
    """What the blocks print when they are run one behind the other."""
    script = folder / "script.py"
    script.write_text(GIVEN + "\n\n".join(blocks) + wanted)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_blocks_run_in_order(tmp_path) -> None:
    printed = output_of(BLOCKS, tmp_path, WANTED)
    assert "net: 2 loaded, 2 of another shape, 2 renamed" in printed


def test_the_blocks_of_saving_run_in_order(tmp_path) -> None:
    blocks = blocks_of((ROOT / "docs" / "saving.md").read_text(encoding="utf-8"))
    assert len(blocks) == 2
    assert output_of(blocks, tmp_path).endswith(" True 1.0\n")
    for folder in ("background", "overlap"):
        assert [e.step for e in holdfast.Run(tmp_path / "runs" / folder).checkpoints()] == [0, 1, 2]


def test_recipes_are_short() -> None:
    """What holdfast is asked to do takes five lines at most; files written by hand take more."""
    calls = [block for block in BLOCKS if "torch.save(" not in block]
    assert len(BLOCKS) > 14
    assert all(len(block.splitlines()) <= 5 for block in calls)


def test_every_section_of_the_tutorial_is_there() -> None:
    for title in ("state dict", "inference", "general checkpoint", "Several models", "Warm start"):
        assert re.search(rf"^## .*{title}", TEXT, re.MULTILINE), title
    for title in ("devices", "DataParallel", "Old file formats", "Files from others"):
        assert re.search(rf"^## .*{title}", TEXT, re.MULTILINE), title
