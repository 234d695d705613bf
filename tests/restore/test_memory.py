"""What a restore takes beside the live tensors: one tensor at a time, whatever the file is like."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.distributed.checkpoint as dcp

#: 128 MiB in tensors of 1 MiB.
_COUNT, _ROWS, _COLUMNS = 128, 256, 1024

_MEASURE = """
import sys, tracemalloc
import torch
from torch import nn
import holdfast

path, kind = sys.argv[1:]

class Net(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        for i in range(128):
            self.register_parameter(f"p{i}", nn.Parameter(torch.ones(256, 1024, dtype=dtype)))

def now(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1])

with torch.device("meta" if kind.startswith("meta") else "cpu"):
    live = Net(torch.bfloat16 if "cast" in kind else torch.float32)
torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, path + ".small")
for device in ("cpu", "meta"):
    holdfast.load_state(path + ".small", model=nn.Linear(2, 2, device=device))  # imports
before = now("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
holdfast.load_state(path, model=live, cast=True)
assert float(live.p0[0, 0]) == 0 and float(live.p127[0, 0]) == 127
print(now("VmHWM") - before)
tracemalloc.start()
holdfast.load_state(path, model=live, cast=True)
print(tracemalloc.get_traced_memory()[1] >> 10)
"""


def _state(layout: str) -> dict[str, torch.Tensor]:
    numbers = torch.arange(_COUNT, dtype=torch.float32)
    whole = numbers.view(_COUNT, 1, 1).expand(_COUNT, _ROWS, _COLUMNS).contiguous()
    if layout == "views of one storage":
        return {f"p{i}": whole[i] for i in range(_COUNT)}
    return {f"p{i}": whole[i].clone() for i in range(_COUNT)}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize(
    ("kind", "live_mib", "layout"),
    [
        ("cast", 0, "views of one storage"),
        ("cast", 0, "dcp"),
        ("meta", 128, "views of one storage"),
        ("meta, cast", 64, "views of one storage"),
        ("meta, cast", 64, "storages of their own"),
        ("meta, cast", 64, "dcp"),
    ],
)
def test_a_restore_takes_no_second_copy(kind, live_mib, layout, tmp_path) -> None:
    """``live_mib`` is what the live tensors themselves have no memory for before."""
    path = tmp_path / "a.pt"
    if layout == "dcp":
        writer = dcp.FileSystemWriter(path)
        dcp.save({"model": _state(layout)}, storage_writer=writer, no_dist=True)
    else:
        torch.save(_state(layout), path)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path), kind],
        capture_output=True,
        text=True,
        check=True,
    )
    resident, traced = map(int, done.stdout.split())
    assert resident < (live_mib + 32) << 10  # KiB
    assert traced < 24 << 10  # what Python itself and NumPy allocate, live tensors in place
