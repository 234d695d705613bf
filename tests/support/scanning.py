"""Files with a payload in them, and what a scan of them finds."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile

from holdfast.io.source import Memory
from holdfast.report.crawl import scan_source
from holdfast.report.scan import ScanReport

#: It would call ``posix.abort_``, which no module has: even loaded it does nothing.
EVIL = b"\x80\x02cposix\nabort_\n)R."
BENIGN = b"\x80\x02}q\x00."


def scan(data: bytes) -> ScanReport:
    return scan_source(Memory(data, "file"))


def members(report: ScanReport) -> list[str]:
    return [p.member for p in report.places if any(s.symbol == "posix.abort_" for s in p.symbols)]


def torch_zip(data_pkl: bytes = BENIGN, extra: dict[str, bytes] | None = None, **how) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        archive.writestr("a/data.pkl", data_pkl)
        archive.writestr("a/version", b"3\n")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def local_member(name: bytes, data: bytes, *, method: int = 0) -> bytes:
    """A member of a zip as its local header alone tells it."""
    sizes = len(data), len(data), len(name), 0
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 0, 0, *sizes) + name + data


def before_directory(data: bytes, between: bytes) -> bytes:
    """The same archive with bytes between its last member and its directory."""
    end = data.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", data, end + 16)[0]
    offset = struct.pack("<I", start + len(between))
    return data[:start] + between + data[start : end + 16] + offset + data[end + 20 :]


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
