"""Small files of every format to begin fuzzing from: ``python -m tests.fuzz.make_seeds FOLDER``."""

from __future__ import annotations

import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.target import PICKLE, packed
from tests.support.samples import WRITERS, write

from holdfast.formats.zip_archive import read_members
from holdfast.io.source import open_source

#: Larger seeds only make fuzzing slow.
_LARGEST = 64 << 10


def seeds() -> dict[str, bytes]:
    """Inputs by name: each sample as it stands, and the pickles in those that are archives."""
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in (write(each, Path(name)).path for each in WRITERS):
            data = packed(path) if path.is_dir() else path.read_bytes()
            found[path.name] = data
            if path.is_file() and zipfile.is_zipfile(path):
                for member, pickle in _pickles(path):
                    found[f"{path.name}.{member.replace('/', '.')}"] = PICKLE + pickle
    return {name: data for name, data in found.items() if len(data) <= _LARGEST}


def _pickles(path: Path) -> Iterator[tuple[str, bytes]]:
    with open_source(path) as source:
        for name, member in read_members(source).items():
            if name.endswith(".pkl"):
                yield name, source.read_at(member.offset, member.nbytes)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for seed, content in seeds().items():
        (target / seed).write_bytes(content)
