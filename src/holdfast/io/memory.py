"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
#: Limit and use of the control group, version 2 and version 1.
_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available() -> int | None:
    """Bytes that can be allocated without swapping or being killed; None where nobody says."""
    known = [found for found in (_of_machine(), *(_of_group(*g) for g in _GROUPS)) if found]
    return min(known) if known else None


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    found = sizes.get("MemAvailable", "").split()
    return int(found[0]) << 10 if found else None


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
