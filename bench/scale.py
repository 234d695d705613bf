"""What a large model on many ranks costs each of them, without its data: time and memory.

    python bench/scale.py [--ranks 1024] [--layers 80] [--way shards | copies | shards and columns]

The model is one of 70 billion parameters (80 layers of width 8,192, 28,672 within, 8 heads of keys
and values), with AdamW: each parameter, two moments and a count of steps. ``shards`` are those
of fully_shard over all ranks, ``copies`` two copies of such over half of them each, ``columns``
tensor parallelism over 8 within.
"""

from __future__ import annotations

import argparse
import math
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from holdfast.distributed import spread
from holdfast.distributed.planning import Division, Piece, digest_of, divide, file_of
from holdfast.formats import read_index
from holdfast.formats.dcp.layout import NAME
from holdfast.formats.dcp.metadata import read_metadata
from holdfast.formats.dcp.seal import joined, seal
from holdfast.formats.dcp.write import slice_of
from holdfast.io.folder import Folder
from holdfast.io.source import open_source
from holdfast.report.verify import verified_nbytes
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.record import MEMBER, Record, encode

WAYS = ("shards", "copies", "shards and columns")
Shape = tuple[int, ...]


def parameters(layers: int) -> Iterator[tuple[str, Shape, int]]:
    """Name, shape and the axis that tensor parallelism cuts."""
    wide, inner, keys = 8192, 28672, 1024
    yield "tok_embeddings.weight", (128256, wide), 0
    for number in range(layers):
        at = f"layers.{number}"
        for name, rows in (("wq", wide), ("wk", keys), ("wv", keys)):
            yield f"{at}.attention.{name}.weight", (rows, wide), 0
        yield f"{at}.attention.wo.weight", (wide, wide), 1
        yield f"{at}.feed_forward.w1.weight", (inner, wide), 0
        yield f"{at}.feed_forward.w2.weight", (wide, inner), 1
        yield f"{at}.feed_forward.w3.weight", (inner, wide), 0
        yield f"{at}.attention_norm.weight", (wide,), 0
        yield f"{at}.ffn_norm.weight", (wide,), 0
    yield "norm.weight", (wide,), 0
    yield "output.weight", (128256, wide), 0


def cut(shape: Shape, axis: int, number: int, count: int, offset: int = 0) -> tuple[int, int]:
    """Where a share begins and how long it is, as torch.chunk cuts an axis."""
    each = -(-shape[axis] // count)
    start = min(number * each, shape[axis])
    return offset + start, min(each, shape[axis] - start)


def box(shape: Shape, tp_axis: int, rank: int, ranks: int, way: str) -> tuple[Shape, Shape]:
    """What one rank has of a tensor."""
    offsets, sizes = [0] * len(shape), list(shape)
    if way == "copies":
        rank, ranks = rank % (ranks // 2), ranks // 2
    if way == "shards and columns":
        offsets[tp_axis], sizes[tp_axis] = cut(shape, tp_axis, rank % 8, 8)
        rank, ranks = rank // 8, ranks // 8
    start, size = cut(tuple(sizes), 0, rank, ranks)
    offsets[0], sizes[0] = offsets[0] + start, size
    return tuple(offsets), tuple(sizes)


def offer(rank: int, ranks: int, layers: int, way: str) -> tuple[Piece, ...]:
    """The pieces of one rank."""
    found = []
    for name, shape, axis in parameters(layers):
        offsets, sizes = box(shape, axis, rank, ranks, way)
        found.append(Piece(f"model.{name}", "bfloat16", shape, offsets, sizes, False))
        at = f"optimizer.state.{name}"
        found.append(Piece(f"{at}.step", "float32", (), (), (), True))
        for moment in ("exp_avg", "exp_avg_sq"):
            found.append(Piece(f"{at}.{moment}", "float32", shape, offsets, sizes, False))
    return tuple(found)


def memory() -> int:
    """The peak of this process so far, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Do something, and print its seconds and the peak of memory by then."""
    began = time.perf_counter()
    made = call()
    print(f"{what:<44} {time.perf_counter() - began:8.2f} s  {memory() >> 20:7,} MiB")
    return made


def fill(folder: Path, division: Division, described: bytes, crcs: list[str]) -> None:
    """A folder with files of all sizes, and headers in those of the first two ranks."""
    files = range(len(division.writes))
    for rank in files:
        pieces = division.written(rank)
        with (folder / file_of(rank)).open("wb") as file:
            for piece in pieces if rank < 2 else ():
                planned = slice_of(BY_NAME[piece.dtype], piece.sizes)
                file.write(planned.head)
                file.seek(planned.nbytes, 1)
                file.write(planned.tail(0))
            file.truncate(sum(piece.slice_nbytes for piece in pieces))
    (folder / NAME).write_bytes(described)
    checksums = {file_of(rank): crcs[rank] for rank in files}
    record = seal(encode(Record(id="a")), {**checksums, NAME: joined([0])})
    (folder / MEMBER).write_bytes(record)


def resume(folder: str, ranks: int) -> None:
    """What the second of so many ranks reads and computes before it reads tensors."""
    timed("any rank: read .metadata", lambda: read_metadata(Folder(folder)))
    with open_source(folder) as source:
        index = timed(
            "any rank: open all, headers of its share",
            lambda: read_index(source, share=(1, ranks)),
        )
        timed(
            "any rank: which bytes it compares",
            lambda: verified_nbytes(index, share=(1, ranks)),
        )


def save(folder: Path, ranks: int, layers: int, way: str) -> None:
    """What rank 0 and another one compute of a save, into a folder with next to no data."""
    own = timed("one rank: its pieces", lambda: offer(1, ranks, layers, way))
    timed("one rank: their digest, at each save", lambda: digest_of(own))
    print(f"one rank: it tells {len(pickle.dumps(own)) >> 10:,} KiB, once; then 32 bytes")
    told = [pickle.dumps(offer(rank, ranks, layers, way)) for rank in range(ranks)]
    print(f"rank 0: all of them are {sum(map(len, told)) >> 20:,} MiB")
    offers = timed("rank 0: read", lambda: [pickle.loads(each) for each in told])
    told.clear()
    division = timed("rank 0: divide, copies written once", lambda: divide(offers))
    loads = [sum(each.nbytes for each in division.written(rank)) for rank in range(ranks)]
    pieces = sum(map(len, division.writes))
    print(f"{pieces:,} slices, {division.nbytes / 2**40:.2f} TiB in {ranks} files")
    print(f"a file has {min(loads) / 2**20:,.0f} to {max(loads) / 2**20:,.0f} MiB")
    names = {name: tuple(name.split(".")) for name in division.entries}
    said = timed("rank 0: .metadata, once", lambda: spread.described(names, division))
    data = timed("rank 0: .metadata, at each save", lambda: said.data({}))
    crcs = timed(
        "rank 0: checksums", lambda: [joined(range(len(each))) for each in division.writes]
    )
    print(f".metadata has {len(data) >> 20:,} MiB, the record {sum(map(len, crcs)) >> 20:,} MiB")
    fill(folder, division, data, crcs)


def main() -> None:
    """Print a line for each step; what resumes is a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--way", choices=WAYS, default="shards")
    parser.add_argument("--resume", metavar="FOLDER", help="of what has been saved there")
    args = parser.parse_args()
    if args.resume:
        resume(args.resume, args.ranks)
        return
    if args.way == "shards and columns" and args.ranks % 8:
        parser.error("columns are cut over 8 ranks: take a multiple of it")
    numel = sum(math.prod(shape) for _, shape, _ in parameters(args.layers))
    print(f"{numel / 1e9:.1f}e9 parameters, {args.ranks} ranks, {args.way}")
    print(f"{'at first':<44} {0:8.2f} s  {memory() >> 20:7,} MiB")
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), args.ranks, args.layers, args.way)
        sys.stdout.flush()
        command = [sys.executable, __file__, "--resume", folder, "--ranks", str(args.ranks)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
