"""Whatever takes the latest checkpoint of a run says which it passes over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import holdfast


@pytest.mark.parametrize("way", ["load_state", "load_model", "Run.load", "open", "verify", "pin"])
def test_a_newest_checkpoint_that_cannot_be_read_is_named(begun, at, way: str, log) -> None:
    folder = begun(stop=3)
    newest = at.file(folder, 2)
    newest.write_bytes(newest.read_bytes()[:1000])
    log.lines()
    model = at.Training().model
    ways: dict[str, Callable[[], object]] = {
        "load_state": lambda: holdfast.load_state(folder, model=model),
        "load_model": lambda: holdfast.load_model(folder, model),
        "Run.load": lambda: holdfast.Run(folder).load(model=model),
        "open": lambda: holdfast.open(folder),
        "verify": lambda: holdfast.verify(folder),
        "pin": lambda: holdfast.Run(folder).pin("latest"),
    }
    ways[way]()
    lines = [line for line in log.lines() if line.startswith(f"skipped {newest}")]
    assert len(lines) == 1
    assert "which cannot be read: " in lines[0]


def test_one_that_is_asked_for_by_its_step_is_not_a_passing_over(begun, at, log) -> None:
    folder = begun(stop=3)
    newest = at.file(folder, 2)
    newest.write_bytes(newest.read_bytes()[:1000])
    log.lines()
    holdfast.open(f"{folder}@1")
    assert [line for line in log.lines() if line.startswith("skipped")] == []
