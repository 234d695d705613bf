"""Which machine this is."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from holdfast.benchmark.report import Machine

#: Packages whose versions say what was compared.
_PACKAGES = ("holdfast", "torch", "safetensors", "torch_checkpointing", "numpy")


def describe(folder: Path) -> Machine:
    """The machine, the file system of ``folder``, the versions, and now."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _count(),
        memory_nbytes=_memory(),
        file_system=file_system(folder),
        system=f"{platform.platform()}, Python {platform.python_version()}",
        versions=_versions(),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )


def _count() -> int:
    return os.cpu_count() or 1


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def file_system(folder: Path, mounts: str | None = None) -> str:
    """The type of the file system that a folder is on, from ``/proc/self/mountinfo``."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return "unknown file system"
    fields = [line.split() for line in mounts.splitlines()]
    # The mount point is the fifth field, the type is the first behind the lone hyphen (proc(5)).
    found = {Path(each[4]): each[each.index("-") + 1] for each in fields if "-" in each}
    here = folder.resolve()
    around = [path for path in (here, *here.parents) if path in found]
    return found[around[0]] if around else "unknown file system"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
