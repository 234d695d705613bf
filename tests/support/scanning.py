"""Files with a payload in them, and what a scan of them finds."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

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


def header(
    name: bytes,
    data: bytes,
    *,
    kind: bytes = b"0",
    link: bytes = b"",
    checksum: Callable[[int], bytes] | None = None,
    size: bytes | None = None,
) -> bytes:
    """A member of a tar archive, byte by byte."""
    made = bytearray(512)
    made[: len(name)] = name
    made[100:108], made[108:116], made[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    made[124:136] = b"%011o\0" % len(data) if size is None else size.ljust(12, b"\0")
    made[136:148] = b"%011o\0" % 0
    made[156:157], made[157 : 157 + len(link)], made[257:265] = kind, link, b"ustar\x0000"
    made[148:156] = b" " * 8
    made[148:156] = checksum(sum(made)) if checksum else b"%06o\0 " % sum(made)
    return bytes(made) + data + bytes(-len(data) % 512)


def tar_of(*members_: bytes) -> bytes:
    return b"".join(members_) + bytes(1024)


def pax(**values: str) -> bytes:
    made = b""
    for key, value in values.items():
        text = f" {key.replace('_', '.', 1)}={value}\n"
        size = len(text) + 2
        made += f"{size + (len(str(size)) > 2)}{text}".encode()
    return made


def oldest(
    *first: bytes, name: bytes = b"foo", checksum: Callable[[int], bytes] | None = None
) -> bytes:
    """A tar of torch 0.1: ``storages``, with a payload behind a storage, then the rest."""
    storages = (
        pickle.dumps(1, 2)
        + b"\x80\x02(X\1\0\0\0kX\3\0\0\0cpuctorch\nFloatStorage\nt."
        + struct.pack("<q3f", 3, 1, 2, 3)
        + EVIL[2:]
    )
    rest = [(b"tensors", pickle.dumps(0, 2)), (b"pickle", BENIGN)]
    members_ = [header(each, data, checksum=checksum) for each, data in rest]
    return tar_of(*first, header(name, storages, checksum=checksum), *members_)
