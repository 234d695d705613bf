"""Large files, written past the page cache or not, are torch.save's on every file system here.

Each save runs in a process of its own, which alone sees the mount.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, subprocess, sys
from pathlib import Path
import torch, holdfast
from holdfast.io import direct

folder, kind = Path(sys.argv[1]), sys.argv[2]
if kind != "here":
    assert ctypes.CDLL(None).unshare(0x00020000) == 0  # its own mounts
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
if kind == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
if kind == "loop":
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(200 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)

used = set()
for name in ("SegmentSink", "GatheringSink"):
    cls = getattr(direct, name)
    def end(self, end=cls.end, name=name):
        used.add(name)
        end(self)
    cls.end = end

torch.manual_seed(0)
state = {
    "model": {f"w{n}": torch.randn(n) for n in (3_000_001, 1_500_000, 7, 0, 4096)},
    "many": [torch.full((n % 700,), n) for n in range(2000)],
    "views": [torch.randn(5000, 300)[10:20], "text"],
}
for number in range(3):
    ours, theirs = folder / "ours" / "a.pt", folder / "theirs" / "a.pt"
    ours.parent.mkdir(exist_ok=True)
    theirs.parent.mkdir(exist_ok=True)
    holdfast.save(state, ours)
    torch.save(state, theirs)
    a, b = bytearray(ours.read_bytes()), bytearray(theirs.read_bytes())
    assert len(a) == len(b) > direct.DIRECT_FROM
    different = [i for i in range(0, len(a), 4096) if a[i : i + 4096] != b[i : i + 4096]]
    first = a.index(b".data/serialization_id")
    assert all(i + 4096 > first for i in different), different[:5]
    assert holdfast.verify(ours).ok
    state["model"][f"more{number}"] = torch.randn(999)  # another length at the end

model = torch.nn.Linear(2000, 1500)
for background in (True, "overlap", False):
    with holdfast.Run(folder / str(background), model=model, background=background) as run:
        run.save(0)
    assert holdfast.verify(run.folder).status == "good"
    saved = torch.load(run.latest().path, weights_only=True)["model"]
    assert all(map(torch.equal, saved.values(), model.state_dict().values()))
print(*sorted(used))
"""


@pytest.mark.parametrize(
    ("kind", "sinks"),
    [
        ("here", "SegmentSink"),
        ("tmpfs", ""),  # newer kernels write directly there, others do not
        ("loop", "SegmentSink"),
    ],
)
def test_the_bytes_are_those_of_torch_save(tmp_path: Path, kind: str, sinks: str) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, folder, kind]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert sinks in ended.stdout.split() or not sinks
