"""Run folders with fixed records, so that every answer can be compared to the letter."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from holdfast.cli.app import cli
from holdfast.saving.foreground import save_encoded
from holdfast.spec.record import Record
from holdfast.spec.record import encode as encode_record
from holdfast.tensors.encode import alignment, encode

GOLDEN = Path(__file__).parents[2] / "golden" / "cli"
LOSSES = (0.5, 0.125, 0.25)


def tree(step: int) -> dict:
    weight = torch.arange(12.0).reshape(3, 4) + step
    return {
        "model": {"fc.weight": weight, "fc.bias": torch.zeros(3), "tied": weight},
        "optimizer": {
            "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3, 4)}},
            "param_groups": [{"lr": 0.01, "betas": (0.9, 0.999), "params": [0]}],
        },
        "extra": {"note": "first try"},
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``runs/a`` below the current folder: steps 10, 20, 30 with fixed times and losses."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/a")
    folder.mkdir(parents=True)
    for sequence, loss in enumerate(LOSSES):
        step = 10 * (sequence + 1)
        name = f"step-{step:08d}.pt"
        record = Record(
            id=f"{sequence:032x}",
            step=step,
            sequence=sequence,
            parent=f"{sequence - 1:032x}" if sequence else None,
            time=f"2026-01-31T09:0{sequence}:00.000+00:00",
            metrics={"loss": loss},
            best={"loss": "min"},
            parameters={"optimizer": [["model.fc.weight"]]},
            provenance={
                "file": name,
                "git": {"commit": "0123456789abcdef" * 2, "is_dirty": False},
                "versions": {"torch": "2.13.0", "holdfast": "0.1.0"},
                "host": "box",
            },
        )
        save_encoded(encode(tree(step)), folder / name, record=encode_record(record))
    return folder


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``theirs``: what other code wrote, one of them damaged."""
    monkeypatch.chdir(tmp_path)
    folder = Path("theirs")
    folder.mkdir()
    for epoch in (2, 10):
        torch.save(
            {"epoch": epoch, "model_state_dict": tree(epoch)["model"]}, folder / f"{epoch}.pt"
        )
    (folder / "cut.pt").write_bytes((folder / "2.pt").read_bytes()[:500])
    for path in folder.iterdir():
        os.utime(path, (1_770_000_000, 1_770_000_000))
    return folder


@pytest.fixture
def holdfast() -> Callable[..., Result]:
    """Call the command line in this process; the result has stdout, stderr and exit_code."""

    def call(*arguments: str, **options: object) -> Result:
        return CliRunner().invoke(cli, arguments, prog_name="holdfast", **options)

    return call


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare text with a file of ``tests/golden/cli``; UPDATE_GOLDEN=1 writes it anew."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        if alignment() is None and re.search(r" B\b|KiB|bytes", text):
            pytest.skip("files of torch before 2.7 are smaller, so these sizes are others")
        assert text == path.read_text()

    return compare
