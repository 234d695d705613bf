"""Bytes that change by themselves: bits that flip, files that are cut short, blocks that swap.

Each change has to be detected, with the name of the tensor it is in; or it is in bytes that mean
nothing, which is shown: everything loads as it was saved.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.faults.kills import Outcome
from tests.faults.states import Training

import holdfast
from holdfast.errors import HoldfastError
from holdfast.state.equal import same

#: Bytes that are swapped with others.
BLOCK = 512


def state() -> dict[str, Any]:
    """A little of everything: dtypes, views, an empty tensor, plain values."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(40, 30, generator=generator)
    return {
        "weight": weight,
        "row": weight[3],
        "half": torch.randn(1000, generator=generator).to(torch.bfloat16),
        "flags": torch.randint(0, 2, (700,), generator=generator).to(torch.bool),
        "empty": torch.zeros(0, 4),
        "step": torch.tensor(12),
    }


def _saved(folder: Path) -> Path:
    holdfast.save({**state(), "epoch": 3, "name": "a"}, folder / "saved.pt")
    return folder / "saved.pt"


def _in_run(folder: Path) -> Path:
    training = Training("small")
    with holdfast.Run(folder / "run", background=False, **training.parts) as run:
        run.save(5, metrics={"loss": 0.5})
    return folder / "run" / "step-00000005.pt"


def _safetensors(folder: Path) -> Path:
    holdfast.convert(_saved(folder), folder / "model.safetensors")
    return folder / "model.safetensors"


def _converted(folder: Path) -> Path:
    holdfast.convert(_safetensors(folder), folder / "again.pt")
    return folder / "again.pt"


def _plain(folder: Path) -> Path:
    holdfast.convert(_safetensors(folder), folder / "plain.pt", plain=True)
    return folder / "plain.pt"


FILES: dict[str, Callable[[Path], Path]] = {
    "save": _saved,
    "Run": _in_run,
    "convert to .safetensors": _safetensors,
    "convert to .pt": _converted,
    "convert to plain .pt": _plain,
}


class Rotting:
    """A file whose bytes are changed, judged, and changed back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        self.whole = holdfast.load(path)
        index = holdfast.open(path).index
        self.extents = {
            (extent.offset, extent.offset + extent.nbytes): name
            for name, extent in index.extents.items()
        }
        self.is_tensor = bytearray(len(self.data))
        for start, end in self.extents:
            self.is_tensor[start:end] = b"\x01" * (end - start)

    def header_bits(self) -> list[int]:
        return [bit for bit in range(8 * len(self.data)) if not self.is_tensor[bit // 8]]

    def data_bits(self) -> list[int]:
        return [bit for bit in range(8 * len(self.data)) if self.is_tensor[bit // 8]]

    def flipped(self, bit: int) -> list[str]:
        changed = bytearray(self.data)
        changed[bit // 8] ^= 1 << bit % 8
        return self.judged(bytes(changed), [bit // 8])

    def cut(self, nbytes: int) -> list[str]:
        return self.judged(self.data[:nbytes], [])

    def swapped(self, one: int, other: int) -> list[str]:
        changed = bytearray(self.data)
        a, b = slice(one, one + BLOCK), slice(other, other + BLOCK)
        changed[a], changed[b] = changed[b], changed[a]
        places = (*range(one, one + BLOCK), *range(other, other + BLOCK))
        different = [at for at in places if changed[at] != self.data[at]]
        return self.judged(bytes(changed), different) if different else []

    def judged(self, changed: bytes, places: list[int]) -> list[str]:
        """What is wrong with how the change is dealt with."""
        self.path.write_bytes(changed)
        try:
            report = holdfast.verify(self.path)
        except HoldfastError:
            return []  # not even its headers are taken for good
        if not report.ok:
            return list(self._unnamed(report, places))
        try:
            is_same = same(holdfast.load(self.path), self.whole)
        except HoldfastError as error:
            return [f"verify calls it {report.status}, and it does not load: {error}"]
        return [] if is_same else ["something else is loaded, and nobody says so"]

    def _unnamed(self, report: Any, places: list[int]) -> Iterator[str]:
        members = {damage.member.rpartition("/")[2] for damage in report.damages if damage.tensors}
        for (start, end), name in self.extents.items():
            if any(start <= place < end for place in places) and name not in members:
                yield f"the damage in {name} is not named: {sorted(members)}"


class Others(Rotting):
    """A file that others wrote and read: what they load is compared with what was saved."""

    def __init__(self, path: Path, load: Callable[[Path], Any]) -> None:
        super().__init__(path)
        self._load = load
        self.whole = load(path)

    def judged(self, changed: bytes, places: list[int]) -> list[str]:
        self.path.write_bytes(changed)
        try:
            is_same = same(self._load(self.path), self.whole)
        except Exception:  # in whatever way they say it
            return []
        return [] if is_same else ["something else is loaded, and nobody says so"]


def _torch(folder: Path) -> Rotting:
    torch.save(state(), folder / "theirs.pt")
    return Others(folder / "theirs.pt", lambda path: torch.load(path, weights_only=True))


def _their_safetensors(folder: Path) -> Rotting:
    save_file({name: value.clone() for name, value in state().items()}, folder / "t.safetensors")
    return Others(folder / "t.safetensors", load_file)


OTHERS: dict[str, Callable[[Path], Rotting]] = {
    "torch.save": _torch,
    "safetensors": _their_safetensors,
}


def _sample(of: list[int], count: int | None, choices: random.Random) -> list[int]:
    return of if count is None or count >= len(of) else choices.sample(of, count)


def rot(kind: str, *, headers: int | None, data: int, cuts: int, swaps: int) -> Outcome:
    """Change a file of one kind in so many ways; ``headers=None`` is every bit of them."""
    outcome = Outcome(kind, "rot")
    choices = random.Random(0)
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        make = OTHERS.get(kind)
        file = Rotting(FILES[kind](Path(folder))) if make is None else make(Path(folder))
        size = len(file.data)
        for bit in _sample(file.header_bits(), headers, choices):
            outcome.note(f"header, bit {bit}", file.flipped(bit))
        for bit in _sample(file.data_bits(), data, choices):
            outcome.note(f"data, bit {bit}", file.flipped(bit))
        for nbytes in _sample(list(range(size)), cuts, choices):
            outcome.note(f"cut to {nbytes}", file.cut(nbytes))
        for _ in range(swaps):
            one, other = (choices.randrange(size // BLOCK) * BLOCK for _ in range(2))
            outcome.note(f"{one} and {other} swapped", file.swapped(one, other))
    outcome.cases = outcome.happened
    return outcome


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
