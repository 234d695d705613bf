"""What is asked of every input: a value or a letter, in little time and little memory.

An input is a file as it stands, ``PKL:`` and the pickle of a torch file (so that changed pickles
come with a right checksum), or ``DIR:`` and the files of a folder.
"""

from __future__ import annotations

import io
import json
import math
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.arrays.read import Reader
from holdfast.arrays.text import numbers_of, text_of
from holdfast.converting.convert import Options, convert
from holdfast.errors import HoldfastError
from holdfast.formats import read_index
from holdfast.io.source import Memory, Source, open_source
from holdfast.report.choosing import ByName
from holdfast.report.crawl import scan_source
from holdfast.report.leaves import leaves
from holdfast.report.outline import outline
from holdfast.report.summary import summarize
from holdfast.report.verify import verify_index
from holdfast.spec.index import SIZED, Index
from holdfast.tensors.materialise import materialise

PICKLE, FOLDER = b"PKL:", b"DIR:"
#: No input is worth more: seconds of work, bytes of memory beside those of its own.
MOST_SECONDS = 5.0
MOST_NBYTES = 1 << 30
_MOST_ELEMENTS = 10_000
_MOST_FILES = 20
_MOST_PRINTED, _MOST_WRITTEN = 50, 1 << 20
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def limit_memory(nbytes: int = MOST_NBYTES) -> None:
    """From now on this process gets so many bytes more, and a MemoryError beyond."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def look(data: bytes) -> None:
    """Do all that can be done with a file; an error that is no HoldfastError is a finding.

    Raises:
        AssertionError: it took longer than any input may.
    """
    started = time.process_time()
    if data.startswith(FOLDER):
        with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
            _write(Path(folder), data[len(FOLDER) :])
            with open_source(folder) as source:
                _look_at(source)
    elif data.startswith(PICKLE):
        _look_at(Memory(_wrapped(data[len(PICKLE) :]), "file"))
    else:
        _look_at(Memory(data, "file"))
    taken = time.process_time() - started
    assert taken < MOST_SECONDS, f"{taken:.1f} seconds for {len(data):,} bytes"


def _look_at(source: Source) -> None:
    for act in (_read, _print, _load, _convert, scan_source):
        letter = ""
        try:
            act(source)
        except HoldfastError as error:
            letter = str(error)
        assert len(letter) < 20_000


def _read(source: Source) -> None:
    index = read_index(source)
    summarize(index)
    verify_index(index, source)
    reader = Reader(index, source)
    for _, node in _small_tensors(index):
        with suppress(HoldfastError):
            reader.array(node)


def _small_tensors(index: Index) -> Iterator[tuple[str, Any]]:
    for leaf in leaves(index.tree).found:
        node = leaf.value
        if isinstance(node, SIZED) and math.prod(node.shape) <= _MOST_ELEMENTS:
            yield leaf.name, node


def _print(source: Source) -> None:
    """What ``show`` does, with a name and without."""
    index = read_index(source)
    by_name, reader = ByName(index.tree), Reader(index, source)
    names = by_name.names()
    assert len(set(names)) == len(names)
    summary = summarize(index)
    for options in ({}, {"is_short": True}, {"depth": 2}):
        assert all(isinstance(row.name, str) for row in outline(summary, **options))
    json.dumps(summary.to_json(), allow_nan=False)
    for name, node in islice(_small_tensors(index), _MOST_PRINTED):
        with suppress(HoldfastError):
            assert by_name.find(name, "file") is node
            text_of(node, reader)
            numbers_of(node, reader)


def _load(source: Source) -> None:
    index = read_index(source)
    for opaque in ("keep", "state_dict"):
        with suppress(HoldfastError):
            materialise(index, source, opaque=opaque)


def _convert(source: Source) -> None:
    """Plan it in every form; write it if it is small, and read that."""
    index = read_index(source)
    forms = [("a.pt", Options()), ("b.pt", Options(is_plain=True)), ("c.safetensors", Options())]
    forms += [("d.safetensors", Options(dtype="bf16")), ("e", Options(shard_size="1KB"))]
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        for name, options in forms:
            target = Path(folder, name)
            try:
                planned = convert(index, source, target, replace(options, is_dry_run=True))
                if planned.nbytes > _MOST_WRITTEN:
                    continue
                written = convert(index, source, target, options)
            except HoldfastError:
                continue
            assert written.files == planned.files
            with open_source(target) as made:
                assert verify_index(read_index(made), made).status == "good"


def _wrapped(pickle: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
        for number in range(8):
            archive.writestr(f"a/data/{number}", bytes(16 * (number + 1)))
        archive.writestr("a/version", b"3\n")
    return buffer.getvalue()


def packed(folder: Path) -> bytes:
    """The files of a folder as one input."""
    parts = [FOLDER]
    for path in sorted(folder.iterdir()):
        name, data = path.name.encode(), path.read_bytes()
        parts.append(struct.pack("<BI", len(name), len(data)) + name + data)
    return b"".join(parts)


def _write(folder: Path, data: bytes) -> None:
    for name, content in list(_files(data))[:_MOST_FILES]:
        (folder / name).write_bytes(content)


def _files(data: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at + 5 <= len(data):
        size, nbytes = struct.unpack_from("<BI", data, at)
        raw = data[at + 5 : at + 5 + size]
        name = bytes(byte for byte in raw if byte in _PLAIN).decode("ascii")
        if name.strip("."):
            yield name, data[at + 5 + size : at + 5 + size + nbytes]
        at += 5 + size + nbytes


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
