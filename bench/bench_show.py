"""How long ``holdfast show`` takes, the start of Python included, and how much memory it needs.

    python bench/bench_show.py [--runs 7] [--folder DIR]

The files are made anew: one of 16 GiB that is a hole but for its headers, and state dicts of ten
and a hundred thousand tensors, as torch and safetensors write them. Needs torch and safetensors to
write them; what is measured imports neither.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.formats.torch_zip import members, write
from holdfast.io.checksum import crc32
from holdfast.pickles import writer
from holdfast.spec.dtypes import BY_NAME
from holdfast.spec.index import StorageRef, TensorRef

GIB = 1 << 30


def large(path: Path, nbytes: int = 16 * GIB, tensors: int = 256) -> None:
    """A torch zip of so many bytes of bf16 numbers, all of them a hole in the file."""
    width, dtype = 4096, BY_NAME["bfloat16"]
    numel = nbytes // 2 // tensors
    tree = {
        f"layers.{n}.weight": TensorRef(
            dtype, (numel // width, width), (width, 1), StorageRef(str(n), dtype, numel)
        )
        for n in range(tensors)
    }
    pickle, headers = writer.write(tree), members.headers(alignment=write.ALIGNMENT)
    storages = dict.fromkeys(range(tensors), numel * 2)
    plan = write.layout(path.stem, members.sizes(pickle, storages, headers=headers, record=None))
    small = {"data.pkl": pickle, **headers, "version": members.VERSION}
    small[members.SERIALIZATION_ID] = b"0" * 40
    zeros = crc_of_zeros(numel * 2)
    crcs = {f"{path.stem}/data/{n}": zeros for n in range(tensors)}
    crcs.update({f"{path.stem}/{name}": crc32(data) for name, data in small.items()})
    with path.open("wb") as file:
        for member in plan.members:
            file.seek(member.header_offset)
            file.write(write.local_header(member))
            file.write(small.get(member.name.partition("/")[2], b""))
            file.seek(member.end - member.descriptor_nbytes)
            file.write(write.descriptor(member, crcs.get(member.name, 0)))
        file.write(write.directory(plan, crcs))
    assert path.stat().st_size >= nbytes


def crc_of_zeros(nbytes: int) -> int:
    block, crc = bytes(1 << 20), 0
    for _ in range(nbytes >> 20):
        crc = crc32(block, crc)
    return crc32(block[: nbytes % (1 << 20)], crc)


def names(count: int) -> list[str]:
    return [f"model.layers.{n // 8}.block.{n % 8}.weight" for n in range(count)]


def many(count: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import torch

        torch.save({name: torch.zeros(4, 4) for name in names(count)}, path)

    return make


def many_safe(count: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import numpy as np
        from safetensors.numpy import save_file

        save_file({name: np.zeros((4, 4), np.float32) for name in names(count)}, path)

    return make


#: What is measured: how the file is made, and the seconds it should take at most.
CASES: dict[str, tuple[Callable[[Path], None], float | None]] = {
    "16 GiB.pt": (large, 0.3),
    "10,000 tensors.pt": (many(10_000), 0.5),
    "100,000 tensors.pt": (many(100_000), 5.0),
    "10,000 tensors.safetensors": (many_safe(10_000), None),
    "100,000 tensors.safetensors": (many_safe(100_000), 5.0),
}


def run(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds from start to end, and the most memory it had, in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def report(name: str, limit: float | None, taken: list[tuple[float, float]]) -> None:
    seconds = [each for each, _ in taken]
    wanted = "" if limit is None else f"  wanted {limit} s"
    print(
        f"{name:28}  median {statistics.median(seconds):6.3f} s  "
        f"({min(seconds):.3f} to {max(seconds):.3f})  "
        f"peak {max(memory for _, memory in taken):4.0f} MiB{wanted}",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--folder", type=Path)
    options.add_argument("--make", nargs=2, metavar=("CASE", "PATH"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.make:
        CASES[chosen.make[0]][0](Path(chosen.make[1]))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-show-") as temporary:
        folder = Path(temporary)
        # As installed: compiled once, by the run that is not counted.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        nothing = [sys.executable, "-c", "pass"]
        report("python -c pass", None, [run(nothing, environment) for _ in range(chosen.runs)])
        for name, (_, limit) in CASES.items():
            path = folder / name
            # By another process: what this one has in memory counts for those it starts.
            subprocess.run([sys.executable, __file__, "--make", name, str(path)], check=True)
            command = [sys.executable, "-m", "holdfast", "show", str(path)]
            run(command, environment)
            report(name, limit, [run(command, environment) for _ in range(chosen.runs)])
            path.unlink()


if __name__ == "__main__":
    main()
