"""Notes on a store that outlives those who left them."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from holdfast.distributed.board import Board


def test_notes_of_ranks_that_were_started_before_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchrun starts all ranks again with the store that they had: old answers fit new calls."""
    store = dist.HashStore()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    first = Board(store, 0, 2)
    first.post("run1/1/answer", "an old one")
    assert Board(store, 1, 2).read("run1/1/answer") == "an old one"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = Board(store, 1, 2)
    assert not again.has("run1/1/answer")
    assert not again.has("who/0"), "whoever it was has ended"
    again.post("run1/1/answer", "a new one")
    assert first.read("run1/1/answer") == "an old one"
