"""How much memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MEMINFO = Path("/proc/meminfo")
#: The control groups of this process, and where their folders are.
_OWN_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
#: Files with limit and use, of version 2 and version 1.
_VERSION_2 = ("memory.max", "memory.current")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def available() -> int | None:
    """Bytes that can be allocated without swapping or being killed; None where nobody says."""
    known = [_of_machine(), *(_of_group(*files) for files in _groups(_OWN_GROUPS, _MOUNT))]
    return min((found for found in known if found is not None), default=None)


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    found = sizes.get("MemAvailable", "").split()
    return int(found[0]) << 10 if found else None


def _groups(own: Path, mount: Path) -> Iterator[tuple[Path, Path]]:
    """Limit and use of each control group that counts this process, from its own to the root.

    A limit anywhere above holds, too. In a container the root of the mount may be its own group
    while ``/proc/self/cgroup`` has the host's path: then only the root is there to be read.
    The format is that of cgroups(7).
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (mount / "memory", _VERSION_1) if controllers else (mount, _VERSION_2)
        group = PurePosixPath(path.lstrip("/"))
        above = () if ".." in group.parts else (group, *group.parents)
        for folder in above or (PurePosixPath(),):
            yield root / folder / files[0], root / folder / files[1]


def _of_group(limit: Path, usage: Path) -> int | None:
    try:
        texts = limit.read_text().strip(), usage.read_text().strip()
        cached = _cached(limit.with_name("memory.stat"))
    except OSError:
        return None
    if not all(text.isdecimal() for text in texts):  # "max"
        return None
    return max(1, int(texts[0]) - int(texts[1]) + cached)


def _cached(stat: Path) -> int:
    """File pages that count as used and go when memory is asked for."""
    for line in stat.read_text().splitlines():
        name, _, nbytes = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(nbytes)
    return 0
