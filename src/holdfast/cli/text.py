"""Values as people read them: bytes, counts, shapes, times; nothing that harms a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from holdfast.spec.words import count, shortened, size

__all__ = ["count", "moment", "number", "record_lines", "safe", "shape", "shortened", "size"]


def shape(sizes: Sequence[int]) -> str:
    """``[16, 4]``; ``[]`` is a tensor of one number."""
    return f"[{', '.join(map(str, sizes))}]"


def number(value: float | str | None) -> str:
    """A metric: six digits that matter, or nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.6g}"


def moment(time: str | None, mtime: float | None = None) -> str:
    """A record's time, else a file's, as ``2026-01-31 09:05:00`` in UTC."""
    if time is not None:
        return safe(time[:19].replace("T", " "))
    if mtime is None:
        return ""
    return datetime.fromtimestamp(mtime, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def safe(text: str) -> str:
    """``text`` with everything that is not printable escaped; line breaks stay.

    Names come from files of strangers: control codes in them could rewrite the screen.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def record_lines(record: Mapping[str, Any]) -> list[str]:
    """A record in a few lines: place in its run, metrics, where it comes from."""
    counts = [f"{key} {record[key]}" for key in ("step", "sequence") if record.get(key) is not None]
    saved = [f"saved {moment(record['time'])} UTC"] if record.get("time") else []
    metrics = [f"{name} {number(value)}" for name, value in record.get("metrics", {}).items()]
    lines = [", ".join(counts + saved), ", ".join(metrics), _origin(record.get("provenance", {}))]
    return [safe(line) for line in lines if line]


def _origin(provenance: Mapping[str, Any]) -> str:
    git, versions = provenance.get("git"), provenance.get("versions")
    facts = []
    if isinstance(git, Mapping) and isinstance(git.get("commit"), str):
        facts.append(f"git {git['commit'][:12]}{' (dirty)' if git.get('is_dirty') else ''}")
    if isinstance(versions, Mapping):
        facts += [f"{name} {versions[name]}" for name in ("torch", "holdfast") if name in versions]
    if isinstance(provenance.get("host"), str):
        facts.append(f"on {provenance['host']}")
    return ", ".join(facts)
