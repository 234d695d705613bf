"""Bits that flip, files cut short, blocks that swap: none of it passes for what was saved."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from tests.faults.rot import FILES, Rotting, rot
from tests.faults.states import Training, digest, tensors_of

import holdfast


def test_a_change_of_a_large_file_is_detected_or_means_nothing() -> None:
    """As large as those that are written past the page cache: reading each takes longer."""
    outcome = rot("save, large", headers=500, data=200, cuts=50, swaps=50)
    assert outcome.wrong == {}
    assert outcome.cases >= 700


@pytest.mark.parametrize("kind", [kind for kind in FILES if "large" not in kind])
def test_each_change_is_detected_or_means_nothing(kind: str) -> None:
    outcome = rot(kind, headers=4000, data=800, cuts=300, swaps=100)
    assert outcome.wrong == {}
    assert outcome.cases >= 4000


def test_the_judge_sees_what_goes_unnoticed(tmp_path: Path, monkeypatch) -> None:
    """Were verify to pass everything, loading another number would be seen."""
    file = Rotting(FILES["save"](tmp_path))

    class Good:
        ok, status = True, "good"

    monkeypatch.setattr(holdfast, "verify", lambda path: Good())
    monkeypatch.setattr(holdfast, "load", lambda path: {"another": torch.zeros(1)})
    bit = file.data_bits(1, random.Random(5))[0]
    assert file.flipped(bit) == ["something else is loaded, and nobody says so"]


def test_a_resume_falls_back_from_a_rotten_checkpoint(tmp_path: Path) -> None:
    training, choices = Training("small"), random.Random(1)
    with holdfast.Run(tmp_path, keep=None, background=False, **training.parts) as run:
        for step in (1, 2):
            training.become(step)
            run.save(step)
    newest = tmp_path / "step-00000002.pt"
    whole = newest.read_bytes()
    index = holdfast.open(newest).index
    extents = [extent for extent in index.extents.values() if extent.nbytes > 100]
    changes = [whole[:nbytes] for nbytes in choices.sample(range(len(whole)), 20)]
    for _ in range(20):
        extent, changed = choices.choice(extents), bytearray(whole)
        changed[extent.offset + choices.randrange(extent.nbytes)] ^= 1 << choices.randrange(8)
        changes.append(bytes(changed))
    for changed in changes:
        newest.write_bytes(changed)
        live = Training("small")
        with holdfast.Run(tmp_path, keep=None, background=False, **live.parts) as run:
            assert run.resume() == 2
            assert run.report.step == 1
        assert digest(live.tensors()) == digest(tensors_of(1, "small"))
