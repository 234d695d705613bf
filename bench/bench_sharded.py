"""How long saving a model takes that is spread over processes, and what loading it reads,
beside torch.distributed.checkpoint.

    python bench/bench_sharded.py [--mib 512] [--rounds 7] [--folder DIR]

Two processes on this machine save one state each round, one way after the other, each into a fresh
folder, counted from before the call of the first to behind that of the last; then four processes
load it, cut along the other axis. The bytes are those that the process has read (``rchar``).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

import holdfast

SIDE = 2048


def model_of(mib: int, cut: str) -> nn.Module:
    """Weights of 16 MiB each, cut along rows or columns over all processes."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(max(1, mib // 16))))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if cut == "rows":
        return fully_shard(model, mesh=mesh)
    for layer in model:
        weight = distribute_tensor(layer.weight.detach(), mesh, [Shard(1)])
        layer.weight = nn.Parameter(weight)
    return model


def together(call: Callable[[], Any]) -> float:
    """Seconds until every process has come to the end of a call."""
    dist.barrier()
    began = time.perf_counter()
    call()
    dist.barrier()
    return time.perf_counter() - began


def written(path: Path, nbytes: int) -> None:
    """As many bytes of each process, past the page cache, durable: no saver can be faster."""
    path.mkdir(exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_DIRECT
    fd = os.open(path / str(dist.get_rank()), flags)
    with mmap.mmap(-1, 8 << 20) as block:
        for _ in range(nbytes // len(block)):
            os.write(fd, block)
    os.fsync(fd)
    os.close(fd)


def ways(folder: Path, model: nn.Module) -> dict[str, Callable[[Path], Any]]:
    """What saves the model into a folder of that name."""
    run = holdfast.Run(folder / "run", keep=None, background=False, model=model)
    steps = iter(range(1_000_000))

    def with_torch(threads: int) -> Callable[[Path], Any]:
        def save(path: Path) -> None:
            writer = dcp.FileSystemWriter(path, thread_count=threads)
            dcp.save({"model": model.state_dict()}, storage_writer=writer)

        return save

    nbytes = sum(each.to_local().nbytes for each in model.parameters())
    return {
        "holdfast": lambda _: run.save(next(steps)),
        "the disk alone": lambda path: written(path, nbytes),
        "dcp.save": with_torch(1),
        "dcp.save, 2 threads": with_torch(2),
    }


def blocked(folder: Path, model: nn.Module) -> dict[str, tuple[Callable[[Path], Any], Any]]:
    """What saves behind the training: the call, and what waits for its end.

    torch's gets a process group of its own: its collectives run in a thread, and on that of the
    training they get mixed up with the training's, which then hangs.
    """
    group = dist.new_group()
    run = holdfast.Run(folder / "behind", keep=None, model=model)
    steps = iter(range(1_000_000))
    return {
        "holdfast": (lambda _: run.save(next(steps)), lambda pending: pending.wait()),
        "dcp.async_save": (
            lambda path: dcp.async_save(
                {"model": model.state_dict()}, checkpoint_id=path, process_group=group
            ),
            lambda future: future.result(),
        ),
    }


def removed(folder: Path) -> None:
    """Everything is gone before the next, and that is not counted."""
    dist.barrier()
    if dist.get_rank() == 0:
        for path in (*folder.glob("*/step-*"), *folder.glob("theirs-*")):
            shutil.rmtree(path)
    dist.barrier()


def measure_saves(folder: Path, mib: int, rounds: int) -> dict[str, Any]:
    """Seconds by way, and seconds until the training goes on."""
    model = model_of(mib, "rows")
    saves, behind = ways(folder, model), blocked(folder, model)
    found: dict[str, dict[str, list[float]]] = {"save": {}, "blocked": {}}
    for number in range(rounds + 1):
        for name, save in saves.items():
            path = folder / f"theirs-{number}-{name[-9:-8]}"
            seconds = together(lambda: save(path))  # noqa: B023 - called at once
            found["save"].setdefault(name, []).append(seconds)
            removed(folder)
        for name, (save, wait) in behind.items():
            path, pending = folder / f"theirs-{number}-behind", []
            seconds = together(lambda: pending.append(save(path)))  # noqa: B023 - called at once
            found["blocked"].setdefault(name, []).append(seconds)
            wait(pending[0])
            removed(folder)
    saves["holdfast"](folder)  # what is loaded
    return {kind: {n: each[1:] for n, each in by.items()} for kind, by in found.items()}


def bytes_read() -> int:
    """What this process has read so far, from the page cache or not."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(text.split("rchar: ")[1].split()[0])


def measure_loads(folder: Path, mib: int, rounds: int) -> dict[str, Any]:
    """Bytes read by each process by way, with those it has in the end, and seconds."""
    model: Any = model_of(mib, "columns")
    (path,) = (folder / "run").glob("step-*")
    run = holdfast.Run(folder / "run", model=model)
    calls: dict[str, Callable[[], Any]] = {
        "holdfast": run.resume,
        "dcp.load": lambda: dcp.load({"model": model.state_dict()}, checkpoint_id=path),
    }
    needed = sum(each.to_local().nbytes for each in model.parameters())
    found: dict[str, Any] = {"needed": needed, "bytes": {}, "seconds": {}}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            before = bytes_read()
            seconds = together(call)
            found["bytes"][name] = bytes_read() - before
            found["seconds"].setdefault(name, []).append(seconds)
    found["seconds"] = {name: each[1:] for name, each in found["seconds"].items()}
    return found


def child(what: str, folder: Path, mib: int, rounds: int) -> None:
    """One process of a measurement; rank 0 prints what was found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = (measure_saves if what == "save" else measure_loads)(folder, mib, rounds)
    if dist.get_rank() == 0:
        print("FOUND", json.dumps(found))
    dist.destroy_process_group()


def start(what: str, size: int, folder: Path, args: argparse.Namespace) -> Any:
    """Start the processes of a measurement; what rank 0 found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--mib", str(args.mib), "--rounds", str(args.rounds)]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    jobs = [
        subprocess.Popen(
            [*command, "--child", what, "--folder", str(folder)],
            env={**os.environ, **group, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [job.communicate()[0] for job in jobs]
    assert all(job.returncode == 0 for job in jobs)
    return json.loads(said[0].split("FOUND", 1)[1])


def shown(seconds: list[float]) -> str:
    """The median, with the least and the most in brackets."""
    return f"{statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"


def main() -> None:
    """Measure, and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--child", default="")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.folder, args.mib, args.rounds)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        saves = start("save", 2, Path(name), args)
        loads = start("load", 4, Path(name), args)
    print(f"{args.mib} MiB over 2 processes, {args.rounds} rounds, torch {torch.__version__}, ")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for kind, title in (("save", "until durable"), ("blocked", "until the training goes on")):
        print(f"{title}:")
        ours = statistics.median(saves[kind]["holdfast"])
        for way, seconds in saves[kind].items():
            print(f"  {way:<22} {shown(seconds)}  x {statistics.median(seconds) / ours:.2f}")
    print("loaded by 4 processes, cut along the other axis:")
    for way, seconds in loads["seconds"].items():
        read = loads["bytes"][way]
        ratio = f"{read / loads['needed']:.2f} of what each needs"
        print(f"  {way:<22} {shown(seconds)}, read {read >> 20} MiB, {ratio}")


if __name__ == "__main__":
    main()
