"""Cut the power at each stage of a save.

Each case has a file system of its own in a file that is mounted (loop). The saving process is
stopped (SIGSTOP, injected by strace) after one of its system calls. Then, by how it is cut:

- ``dropped``, ``flushed``: the file system is shut down (its ioctl), without its latest journal or
  with it, as with a disk that loses power: what is not on the disk by then is gone. ext4 and xfs.
- ``copied``: the disk is copied as it is, and the copy is mounted; for systems without that ioctl.

Then the process is killed, the disk mounted again, and looked at.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.acting import Actor, Setup, look
from tests.faults.kills import Outcome, Plan, roots, target, watched
from tests.faults.tracing import Call, Strace

if TYPE_CHECKING:
    from collections.abc import Iterator

#: _IOR('X', 125, __u32), include/uapi/linux/fs.h (FS_IOC_SHUTDOWN); the same for ext4 and xfs.
_SHUTDOWN = 0x8004587D
#: Its argument: with the journal flushed first, or not.
_FLAGS = {"flushed": 1, "dropped": 2}
#: How often mounting is tried.
_TRIES = 5

#: How each is made, and how large the disk has to be for it, in MiB.
_SYSTEMS = {
    "ext4": (("mkfs.ext4", "-q", "-F"), 256),
    "xfs": (("mkfs.xfs", "-q", "-f"), 320),
    "btrfs": (("mkfs.btrfs", "-q", "-f", "-M"), 320),
}
#: Calls that change nothing: what is on the disk after them was there before.
_LOOKING = (
    *("read", "pread64", "preadv", "fstat", "newfstatat", "stat", "lstat", "statx", "statfs"),
    *("fstatfs", "getdents64", "fcntl", "flock", "lseek", "access", "faccessat", "faccessat2"),
    *("ioctl", "readlink", "readlinkat", "fadvise64", "close"),
)


@dataclass(frozen=True, slots=True)
class Disk:
    """A file that is mounted as a disk; ``system`` is one of ``ext4``, ``xfs``, ``btrfs``."""

    image: Path
    place: Path
    system: str

    def make(self) -> None:
        command, mib = _SYSTEMS[self.system]
        with self.image.open("wb") as file:
            file.truncate(mib << 20)
        subprocess.run([*command, self.image], check=True, stdout=subprocess.DEVNULL)
        self.place.mkdir(exist_ok=True)

    def mount(self, image: Path | None = None) -> None:
        command = ["mount", "-t", self.system, "-o", "loop", image or self.image, self.place]
        for _ in range(_TRIES):  # the loop device of one that was just shut down may not be free
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.image} cannot be mounted: {done.stderr}")

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)

    def cut(self, how: str) -> Path:
        """End all writing; the image as the disk has it then."""
        if how == "copied":
            copy = self.image.with_suffix(".copy")
            subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
            return copy
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _FLAGS[how].to_bytes(4, sys.byteorder))
        finally:
            os.close(fd)
        return self.image


@contextmanager
def disk_in(root: Path, system: str) -> Iterator[Disk]:
    """A disk that is mounted; whatever is mounted there at the end is not any more."""
    disk = Disk(root / "disk.img", root / "disk", system)
    disk.make()
    disk.mount()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk.place], check=False, stderr=subprocess.DEVNULL)


def cut_after(setup: Setup, call: Call | None, disk: Disk, how: str) -> list[str] | None:
    """Cut the power after a call, or after all of them; what is wrong then, None if not made."""
    outside = disk.image.parent
    actor = Actor(setup, outside)
    if call is None:
        actor.go()
        was_made = actor.stands()
    else:
        pid, alone = target(actor, call)
        strace = Strace(
            outside / "strace.log",
            pid,
            *("-e", f"trace={call.name}"),
            *("-e", f"inject={call.name}:signal=STOP:when={call.number}"),
            only_thread=alone,
        )
        actor.go()
        was_made = strace.seen("stopped by SIGSTOP", 20)
    image = disk.cut(how)
    actor.kill()
    actor.ended()
    disk.unmount()
    disk.mount(image)
    return look(setup, outside) if was_made else None


def stages(plan: Plan, calls: Sequence[Call]) -> list[Call | None]:
    """The calls after which the disk may be another one, every ``share``-th; None: after all."""
    changing = [call for call in plan.of(calls) if call.name not in _LOOKING]
    return [*changing[:: plan.share], None]


def cut_at_each(plan: Plan, system: str, how: str) -> Outcome:
    """Cut the power after each call of a save that changes something, and after the last."""
    outcome = Outcome(plan.saver, f"power cut, {system}, {how}, {plan.size}")
    folders = roots()
    with disk_in(next(folders), system) as disk:
        calls = watched(plan.setup(disk.place))
    for call in stages(plan, calls):
        outcome.cases += 1
        with disk_in(next(folders), system) as disk:
            problems = cut_after(plan.setup(disk.place), call, disk, how)
        if problems is not None:
            outcome.note("after all" if call is None else f"after {call}", problems)
    folders.close()
    return outcome


def can_mount(system: str) -> bool:
    """Whether this machine has what it takes."""
    return os.geteuid() == 0 and shutil.which(f"mkfs.{system}") is not None
