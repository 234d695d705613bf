"""How long restoring takes, warm, beside torch.load and load_state_dict, and how much memory.

    python bench/bench_restore.py [--pairs 7] [--gib 1] [--folder DIR]

Each call is a process of its own, in pairs, the file in the page cache; what is timed is the call,
not the start of Python, and the memory is what comes on top of the live model.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_CALL = """
import resource, sys, time
import torch
from torch import nn
import holdfast

path, how, layers = sys.argv[1], sys.argv[2], int(sys.argv[3])
live = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(layers))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
if how == "torch":
    live.load_state_dict(torch.load(path, weights_only=True)["model"])
elif how == "torch, mapped":
    live.load_state_dict(torch.load(path, weights_only=True, mmap=True)["model"])
else:
    holdfast.load_state(path, model=live)
seconds = time.perf_counter() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
_WRITE = """
import sys
import torch
from torch import nn
import holdfast

layers = int(sys.argv[2])
model = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(layers))
holdfast.save_state(sys.argv[1], model=model)
"""
HOW = ("torch", "torch, mapped", "holdfast")


def call(path: Path, how: str, layers: int) -> tuple[float, float]:
    """Seconds of one restore, and the MiB that it needed on top of the model."""
    command = [sys.executable, "-c", _CALL, str(path), how, str(layers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, mib = done.stdout.split()
    return float(seconds), float(mib)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--gib", type=float, default=1.0)
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    layers = round(chosen.gib * 64)
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-restore-") as folder:
        path = Path(folder) / "a.pt"
        subprocess.run([sys.executable, "-c", _WRITE, str(path), str(layers)], check=True)
        call(path, "holdfast", layers)  # the file is in the page cache from here on
        taken: dict[str, list[tuple[float, float]]] = {how: [] for how in HOW}
        for _ in range(chosen.pairs):
            for how in HOW:
                taken[how].append(call(path, how, layers))
    for how in HOW:
        seconds = [each for each, _ in taken[how]]
        ratios = [a / b for (a, _), (b, _) in zip(taken["torch"], taken[how], strict=True)]
        print(
            f"{how:14} median {statistics.median(seconds):.3f} s "
            f"({min(seconds):.3f} to {max(seconds):.3f}), "
            f"{max(mib for _, mib in taken[how]):.0f} MiB more, "
            f"torch takes {statistics.median(ratios):.1f} times as long"
        )


if __name__ == "__main__":
    main()
