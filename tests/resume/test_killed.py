"""A training that is killed 50 times ends bit for bit as one that never was, kept by nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import holdfast

HERE = Path(__file__).parent
RESUMED = re.compile(r"^INFO resumed from .+ \(step (\d+)\)$", re.MULTILINE)

pytestmark = pytest.mark.slow

Kill = dict[str, Any]


def script(name: str, *args: object) -> None:
    command = [sys.executable, str(HERE / name), *map(str, args)]
    # Killed processes leave their temporary folders behind.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        env = os.environ | {"TMPDIR": scratch}
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr


@pytest.fixture(params=[("epochs", 0, 50), ("batches", 0, 50), ("batches", 2, 12)], ids=str)
def killed(
    request: pytest.FixtureRequest, tmp_path: Path, record_property: Callable[[str, object], None]
) -> tuple[Path, Path, list[Kill], bool]:
    """The folders of an oracle and of a training that was killed, the kills, and how it saved.

    Epochs are saved in the foreground, batches behind the training (kept.py).
    """
    variant, workers, count = request.param
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    plain.mkdir()
    kept.mkdir()
    script("oracle.py", variant, workers, plain)
    script("killing.py", variant, workers, kept, count, 1)
    kills = json.loads((kept / "kills.json").read_text())
    record_property("killed", f"{variant}, {workers} workers: {in_words(kills)}")
    assert len(kills) == count
    return plain, kept, kills, variant == "epochs"


def in_words(kills: list[Kill]) -> str:
    phases = Counter(kill["phase"] for kill in kills)
    half = sum(kill["temp_nbytes"] is not None for kill in kills)
    named = sum(kill["aim"] == "named" for kill in kills)
    return (
        f"{len(kills)} kills, {half} while a file was being written, {named} right after it had "
        f"its name; {phases['save']} inside a call of save, {phases['step']} inside a step, "
        f"{len(kills) - phases['save'] - phases['step']} elsewhere"
    )


def test_21_a_training_killed_again_and_again_equals_one_that_never_was(
    killed: tuple[Path, Path, list[Kill], bool],
) -> None:
    plain, kept, kills, in_foreground = killed
    print(in_words(kills))
    if len(kills) == 50:
        phases = Counter(kill["phase"] for kill in kills)
        # A call of save that only copies is over at once: there the save is the file being written.
        in_saves = sum(kill["temp_nbytes"] is not None for kill in kills)
        assert (phases["save"] if in_foreground else in_saves) >= 15
        assert phases["step"] >= 15
    assert differing(final(plain), final(kept)) == []
    assert losses(kept) == losses(plain)
    resumed_behind = resumed(kept, len(kills))
    for number, behind in enumerate(expected(kills, in_flight=0 if in_foreground else 1)):
        following = kills[number + 1 : number + 2]
        if not following or following[0]["phase"] != "resume":
            assert resumed_behind[number] == behind, number
    assert_folder_is_clean(kept / "run")
    assert_workers_met_no_fault_of_ours(kept / "workers")


def final(folder: Path) -> dict[str, str]:
    """Every value at the end: weights, optimizer, scheduler, scaler, generators, by name."""
    return json.loads((folder / "final.json").read_text())


def differing(a: dict[str, str], b: dict[str, str]) -> list[str]:
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


def losses(folder: Path) -> dict[tuple[int, int], list[Any]]:
    """The samples and the loss of each batch; one that was done twice must have been the same."""
    found: dict[tuple[int, int], list[Any]] = {}
    for line in (folder / "log").read_text().splitlines():
        step, batch, ids, loss = json.loads(line)
        assert found.setdefault((step, batch), [ids, loss]) == [ids, loss], (step, batch)
    return found


def resumed(folder: Path, count: int) -> list[int | None]:
    """The step that each process after a kill went on behind; None: at the beginning."""
    steps: list[int | None] = []
    for number in range(1, count + 1):
        messages = (folder / f"messages-{number}").read_text()
        assert "Traceback" not in messages
        assert "skipped" not in messages  # a kill leaves no damaged checkpoint
        found = RESUMED.findall(messages)
        steps.append(int(found[0]) if found else None)
    return steps


def expected(kills: list[Kill], *, in_flight: int) -> list[int | None]:
    """What had its name; no more is lost than the step being done or saved, and one in flight."""
    for kill in kills:
        if kill["phase"] != "resume":
            newest = -1 if kill["newest"] is None else kill["newest"]
            assert kill["step"] - 1 - in_flight <= newest <= kill["step"]
    return [kill["newest"] for kill in kills]


def assert_workers_met_no_fault_of_ours(words: Path) -> None:
    if words.exists():
        assert str(Path(holdfast.__file__).parent) not in words.read_text()


def assert_folder_is_clean(run: Path) -> None:
    names = sorted(path.name for path in run.iterdir())
    assert [name for name in names if not re.fullmatch(r"step-\d{8}\.pt|\.lock", name)] == []
    assert 4 <= len(names) <= 6  # the lock, the last three, the best, the one resumed from
    for name in names:
        if name != ".lock":
            assert {"model", "optimizer", "rng"} <= set(torch.load(run / name, weights_only=True))
