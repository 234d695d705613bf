"""Many saves behind a training, and what they leave behind: ``FOLDER MODE SAVES WIDTH`` → JSON."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
from pathlib import Path

import torch
from torch import nn

import holdfast


def seen() -> dict[str, int]:
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "nbytes": resident * os.sysconf("SC_PAGESIZE"),
    }


def main(folder: str, mode: str, saves: int, width: int) -> None:
    model = nn.Sequential(nn.Linear(200, width), nn.BatchNorm1d(width), nn.Linear(width, 3))
    optimizer = torch.optim.Adam(model.parameters())
    background = True if mode == "background" else mode
    run = holdfast.Run(
        folder,
        keep=holdfast.keep.latest(2),
        background=background,
        model=model,
        optimizer=optimizer,
    )
    found = []  # within the loop: it has a thread that ends with it
    for step in run.steps(saves):
        optimizer.zero_grad()
        model(torch.randn(4, 200)).square().mean().backward()
        optimizer.step()
        run.save(metrics={"loss": step})
        if step in (saves // 4, saves - 1):
            run.wait()
            found.append(seen())
    run.close()
    saved = holdfast.load(folder)["model"]
    is_same = all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    print(json.dumps({"before": found[0], "after": found[1], "is_same": is_same}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
