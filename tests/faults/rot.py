"""Bytes that change by themselves: bits that flip, files that are cut short, blocks that swap.

Each change has to be detected, with the name of the tensor it is in; or it is in bytes that mean
nothing, which is shown: everything loads as it was saved.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.faults.kills import Outcome
from tests.faults.states import Training, tensors_of

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


def _large(folder: Path) -> Path:
    """So large that it is written past the page cache, in several segments."""
    holdfast.save(tensors_of(3, "large"), folder / "large.pt")
    return folder / "large.pt"


def _shards(folder: Path) -> Path:
    holdfast.convert(_saved(folder), folder / "shards", shard_size="3KB")
    return folder / "shards"


FILES: dict[str, Callable[[Path], Path]] = {
    "save": _saved,
    "Run": _in_run,
    "convert to .safetensors": _safetensors,
    "convert to .pt": _converted,
    "convert to plain .pt": _plain,
    "save, large": _large,
    "convert to shards": _shards,
}


class Rotting:
    """A file whose bytes are changed, judged, and changed back.

    ``checkpoint`` is what it is one file of: by default nothing else.
    """

    def __init__(self, path: Path, checkpoint: Path | None = None) -> None:
        self.path, self.checkpoint = path, checkpoint or path
        self.data = path.read_bytes()
        self.whole = self._load()
        index = holdfast.open(self.checkpoint).index
        self.extents = {
            (extent.offset, extent.offset + extent.nbytes): name
            for name, extent in index.extents.items()
            if Path(extent.file) == path
        }

    def _load(self) -> Any:
        return holdfast.load(self.checkpoint)

    def header_places(self) -> list[int]:
        """The bytes that are of no tensor."""
        found, at = [], 0
        for start, end in sorted(self.extents):
            found += range(at, start)
            at = max(at, end)
        return [*found, *range(at, len(self.data))]

    def data_bits(self, count: int, choices: random.Random) -> list[int]:
        """So many bits of the tensors, or all of them."""
        starts = [start for start, end in sorted(self.extents) for _ in range(start < end)]
        sizes = [end - start for start, end in sorted(self.extents) if start < end]
        total = 8 * sum(sizes)
        bits = choices.sample(range(total), min(count, total))
        return [self._bit(bit, starts, sizes) for bit in bits]

    @staticmethod
    def _bit(bit: int, starts: list[int], sizes: list[int]) -> int:
        for start, size in zip(starts, sizes, strict=True):
            if bit < 8 * size:
                return 8 * start + bit
            bit -= 8 * size
        raise AssertionError("there are fewer bits than that")

    def flipped(self, bit: int) -> list[str]:
        at = bit // 8
        return self.changed({at: bytes([self.data[at] ^ 1 << bit % 8])})

    def cut(self, nbytes: int) -> list[str]:
        try:
            os.truncate(self.path, nbytes)
            return self.judged([])
        finally:
            self._write({nbytes: self.data[nbytes:]})

    def removed(self) -> list[str]:
        try:
            self.path.unlink()
            return self.judged([])
        finally:
            self.path.write_bytes(self.data)

    def swapped(self, one: int, other: int) -> list[str] | None:
        """None where the blocks are equal."""
        a, b = self.data[one : one + BLOCK], self.data[other : other + BLOCK]
        return None if a == b else self.changed({one: b, other: a})

    def changed(self, pieces: dict[int, bytes]) -> list[str]:
        """What is wrong with how it is dealt with that other bytes stand at these offsets."""
        places = [
            at + place
            for at, piece in pieces.items()
            for place, byte in enumerate(piece)
            if byte != self.data[at + place]
        ]
        try:
            self._write(pieces)
            return self.judged(places)
        finally:
            self._write({at: self.data[at : at + len(piece)] for at, piece in pieces.items()})

    def _write(self, pieces: dict[int, bytes]) -> None:
        with self.path.open("r+b") as file:
            for at, piece in pieces.items():
                file.seek(at)
                file.write(piece)

    def judged(self, places: list[int]) -> list[str]:
        """What is wrong with how the change is dealt with."""
        try:
            report = holdfast.verify(self.checkpoint)
        except HoldfastError:
            return []  # not even its headers are taken for good
        if not report.ok:
            return list(self._unnamed(report, places))
        try:
            is_same = same(self._load(), self.whole)
        except HoldfastError as error:
            return [f"verify calls it {report.status}, and it does not load: {error}"]
        return [] if is_same else ["something else is loaded, and nobody says so"]

    def _unnamed(self, report: Any, places: list[int]) -> Iterator[str]:
        members = {damage.member.rpartition("/")[2] for damage in report.damages if damage.tensors}
        for (start, end), name in self.extents.items():
            is_in = any(start <= place < end for place in places)
            if is_in and name.rpartition("/")[2] not in members:
                yield f"the damage in {name} is not named: {sorted(members)}"


class Others(Rotting):
    """A file that others wrote and read: what they load is compared with what was saved."""

    def __init__(self, path: Path, load: Callable[[Path], Any]) -> None:
        self._loaded_by = load
        super().__init__(path)

    def _load(self) -> Any:
        return self._loaded_by(self.path)

    def judged(self, places: list[int]) -> list[str]:
        try:
            is_same = same(self._load(), self.whole)
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


def _sample(of: Sequence[int], count: int | None, choices: random.Random) -> Sequence[int]:
    return of if count is None or count >= len(of) else choices.sample(of, count)


def files_of(kind: str, folder: Path) -> list[Rotting]:
    """The files of a checkpoint of one kind, each to be changed by itself."""
    if kind in OTHERS:
        return [OTHERS[kind](folder)]
    checkpoint = FILES[kind](folder)
    files = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
    return [Rotting(file, checkpoint) for file in files]


def rot(kind: str, *, headers: int | None, data: int, cuts: int, swaps: int) -> Outcome:
    """Change a file of one kind in so many ways; ``headers=None`` is every bit of them.

    Of a checkpoint of several files each file in so many ways.
    """
    outcome = Outcome(kind, "rot")
    choices = random.Random(0)
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for file in files_of(kind, Path(folder)):
            name = "" if file.path == file.checkpoint else f"{file.path.name}: "
            bits = [8 * place + bit for place in file.header_places() for bit in range(8)]
            for bit in _sample(bits, headers, choices):
                outcome.note(f"{name}header, bit {bit}", file.flipped(bit))
            for bit in file.data_bits(data, choices):
                outcome.note(f"{name}data, bit {bit}", file.flipped(bit))
            for nbytes in _sample(range(len(file.data)), cuts, choices):
                outcome.note(f"{name}cut to {nbytes}", file.cut(nbytes))
            for one, other in _pairs(len(file.data) // BLOCK, swaps, choices):
                if (problems := file.swapped(one, other)) is not None:
                    outcome.note(f"{name}{one} and {other} swapped", problems)
            if name:
                outcome.note(f"{name}removed", file.removed())
    outcome.cases = outcome.happened
    return outcome


def _pairs(blocks: int, count: int, choices: random.Random) -> Iterator[tuple[int, int]]:
    """Two different blocks of a file, so often."""
    for _ in range(count if blocks > 1 else 0):
        one, other = choices.sample(range(blocks), 2)
        yield one * BLOCK, other * BLOCK


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
