"""Where a payload can hide from a scanner; the files are scanned and never loaded."""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import struct
import tarfile
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from scanning import BENIGN, EVIL, before_directory, local_member, members, scan, tar, torch_zip

import holdfast


def text(data: bytes) -> bytes:
    """Bytes as a text constant of a pickle, as protocol 2 writes them."""
    return b"\x80\x02X" + struct.pack("<I", len(data)) + data + b"."


#: The directory says ``a/data.pkl`` lies elsewhere than where a header of that name stands.
UNLISTED = local_member(b"a/data.pkl", EVIL)


def shifted(data: bytes, by: int) -> bytes:
    """The same archive with bytes before it and offsets that say so."""
    first = data.index(b"PK\x01\x02")
    directory = bytearray(data[first:])
    at = directory.find(b"PK\x01\x02")
    while at >= 0:
        offset = struct.unpack_from("<I", directory, at + 42)[0]
        struct.pack_into("<I", directory, at + 42, offset + by)
        at = directory.find(b"PK\x01\x02", at + 1)
    end = directory.rindex(b"PK\x05\x06")
    struct.pack_into("<I", directory, end + 16, first + by)
    return data[:first] + bytes(directory)


def with_comment(data: bytes, comment: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def legacy(which: int, trailing: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer, _use_new_zipfile_serialization=False)
    data, parts = buffer.getvalue(), []
    file = io.BytesIO(data)
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(data[start : file.tell()])
    rest = data[file.tell() :]
    if which < 5:
        parts[which] = EVIL if which else parts[0][:-1] + b"0" + EVIL[2:]
    return b"".join(parts) + rest + trailing


def save_folder(tree, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save(tree, checkpoint_id=folder)


def oldest(evil_at: str) -> bytes:
    storage = (
        pickle.dumps(1, 2)
        + b"\x80\x02(X\x01\x00\x00\x00kX\x03\x00\x00\x00cpuctorch\nFloatStorage\nt."
    )
    storages = storage + struct.pack("<q", 3) + b"\x80\x02\x00\x00" * 3 + pickle.dumps([], 0)
    if evil_at == "views":
        storages = storages[: -len(pickle.dumps([], 0))] + EVIL[2:]
    tensors = (
        pickle.dumps(1, 2) + b"\x80\x02(X\x01\x00\x00\x00tX\x01\x00\x00\x00kctorch\nFloatTensor\nt."
    )
    tensors += struct.pack("<ii3q", 1, 0, 3, 1, 0)
    if evil_at == "tensors":
        tensors += EVIL[2:]
    return tar(storages=storages, tensors=tensors, pickle=EVIL if evil_at == "pickle" else BENIGN)


HIDDEN = {
    "plain": (EVIL, [""]),
    "protocol 0": (b"(iposix\nabort_\n.", [""]),
    "begins with an odd opcode": (b"N0cposix\nabort_\n)R.", [""]),
    "behind the end of a pickle": (BENIGN + EVIL, [""]),
    "third of three": (BENIGN + b"N." + EVIL, [""]),
    "cut off": (EVIL[:-1], [""]),
    "broken behind": (EVIL[:-1] + b"\xff" * 9, [""]),
    "in bytes": (pickle.dumps({"x": EVIL}, 4), ["bytes at 19"]),
    "in bytes of protocol 2": (pickle.dumps(EVIL, 2), ["text at 25"]),
    "in text": (text(EVIL[2:]), ["text at 7"]),
    "in escaped text": (b"Vcposix\\u000aabort_\\u000a)R.\n.", ["text at 1"]),
    "in a pickle in a pickle": (
        pickle.dumps(pickle.dumps(EVIL, 4), 4),
        ["bytes at 13 > bytes at 13"],
    ),
    "in a torch file in a pickle": (
        pickle.dumps(torch_zip(EVIL), 4),
        ["a/data.pkl", "bytes at 13 > a/data.pkl"],
    ),
    "data.pkl": (torch_zip(EVIL), ["a/data.pkl"]),
    "in a tensor's bytes": (torch_zip(extra={"a/data/0": EVIL}), ["a/data/0"]),
    "under any name": (torch_zip(extra={"a/readme.txt": EVIL}), ["a/readme.txt"]),
    "deflated": (torch_zip(EVIL, compression=zipfile.ZIP_DEFLATED), ["a/data.pkl"]),
    "behind a long stretch of nothing": (
        torch_zip(b"N0" * 300_000 + EVIL[2:], compression=zipfile.ZIP_DEFLATED),
        ["a/data.pkl"],
    ),
    "in a zip in a zip": (torch_zip(extra={"a/x": torch_zip(EVIL)}), ["a/x > a/data.pkl"]),
    "in a deflated zip in a zip": (
        torch_zip(extra={"a/x": torch_zip(EVIL)}, compression=zipfile.ZIP_DEFLATED),
        ["a/x > a/data.pkl"],
    ),
    "in a tar in a zip": (torch_zip(extra={"a/x": tar(y=EVIL)}), ["a/x > y"]),
    "in a gzip in a zip": (torch_zip(extra={"a/x": gzip.compress(EVIL)}), ["a/x > unpacked"]),
    "gzip": (gzip.compress(EVIL), ["unpacked"]),
    "second gzip behind the first": (gzip.compress(BENIGN) + gzip.compress(EVIL), ["unpacked"]),
    "zlib": (zlib.compress(EVIL), ["unpacked"]),
    "tar": (tar(a=b"x", b=EVIL), ["b"]),
    "oldest torch": (oldest("pickle"), ["pickle"]),
    "oldest torch, behind a storage": (oldest("views"), ["storages"]),
    "oldest torch, behind a tensor": (oldest("tensors"), ["tensors"]),
    "names that differ in case": (
        torch_zip(extra={"a/DATA.pkl": EVIL}),
        ["a/DATA.pkl"],
    ),
    "in the comment": (with_comment(torch_zip(), torch_zip(EVIL)), ["a/data.pkl"]),
    "behind the archive": (torch_zip() + torch_zip(EVIL), ["a/data.pkl"]),
    "before the archive": (
        UNLISTED + shifted(torch_zip(), len(UNLISTED)),
        ["a/data.pkl"],
    ),
    "before the archive, unsaid": (UNLISTED + torch_zip(), ["a/data.pkl"]),
    "an archive behind a pickle": (BENIGN + torch_zip(EVIL), ["a/data.pkl"]),
    "behind an archive without members": (b"PK\5\6" + bytes(18) + EVIL, ["behind its end"]),
    "behind an archive without members, in a zip": (
        torch_zip(extra={"a/x": b"PK\5\6" + bytes(18) + EVIL}),
        ["a/x > behind its end"],
    ),
    "before the directory": (before_directory(torch_zip(), UNLISTED), ["a/data.pkl"]),
    "an archive without an end": (torch_zip(EVIL)[:-40], ["a/data.pkl"]),
    "a deflated archive without an end": (
        torch_zip(EVIL, compression=zipfile.ZIP_DEFLATED)[:-40],
        ["a/data.pkl"],
    ),
    **{f"legacy, pickle {which}": (legacy(which), [""]) for which in range(5)},
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_payload_is_found_wherever_it_hides(name):
    data, where = HIDDEN[name]
    report = scan(data)
    assert members(report) == where
    assert (report.verdict, report.ok) == ("harmful", False)
    assert "NOT posix.abort_, called: can run commands or code on this machine" in (
        report.to_text()
    )


AMBIGUOUS = [
    "names that differ in case",
    "in the comment",
    "behind the archive",
    "before the archive",
    "before the archive, unsaid",
    "before the directory",
]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_two_programs_read_differently_is_said(name):
    [problem, *_] = scan(HIDDEN[name][0]).problems
    assert "two programs" in problem.what or "other programs see it" in problem.what


def test_a_member_whose_directory_tells_another_name_is_found_under_both():
    data = bytearray(torch_zip(EVIL))
    at = data.index(b"PK\x01\x02") + 46
    data[at : at + 10] = b"a/data.txt"
    report = scan(bytes(data))
    assert members(report) == ["a/data.pkl"]
    assert "name a member alike" in report.problems[0].what


def test_a_folder(tmp_path: Path):
    save_folder({"m": {"w": torch.ones(3)}, "x": {"n": 5}}, tmp_path)
    assert holdfast.scan(tmp_path).verdict == "clean"
    for name, data in {
        ".metadata": EVIL,
        "__1_0.distcp": torch_zip(EVIL),
        "notes.txt": EVIL,
        "below/x": EVIL,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(data)
        report = holdfast.scan(tmp_path)
        assert report.verdict == "harmful", name
        assert {place.file for place in report.places} >= {str(path)}
        path.unlink() if before is None else path.write_bytes(before)
    assert holdfast.scan(tmp_path).verdict == "clean"


def test_a_pickle_behind_others_in_a_folder_is_found_by_the_numbers_of_the_metadata(tmp_path):
    inner = tmp_path / "step" / "model"
    inner.mkdir(parents=True)
    for folder in (tmp_path, inner):
        (folder / "__0_0.distcp").write_bytes(b"\xff" * 777 + EVIL)
        (folder / ".metadata").write_bytes(pickle.dumps([1, 777]))
        assert holdfast.scan(tmp_path).verdict == "harmful"
        (folder / "__0_0.distcp").unlink()


def test_a_link_to_a_folder_is_told_of(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.pkl").write_bytes(EVIL)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    (tmp_path / "a" / ".metadata").write_bytes(BENIGN)
    report = holdfast.scan(tmp_path / "a")
    assert report.verdict == "broken"
    assert "a link to a folder is not followed: scan that as well" in [
        each.what for each in report.problems
    ]


def test_what_is_named_in_metadata_alone_is_clean_nowhere_else(tmp_path):
    save_folder({"w": torch.ones(3)}, tmp_path)
    report = scan((tmp_path / ".metadata").read_bytes())
    assert report.verdict == "unknown symbols"


NOT_LOOKED_THROUGH = {
    "bzip2": (b"BZh9", "packed with bzip2"),
    "nine gzips": (b"", "8 levels deep"),
    "encrypted method": (b"", "cannot be looked through"),
    "a pickle cut off": (BENIGN[:-1], "it ends before its end"),
    "a broken pickle": (b"\x80\x02}\xff", "no opcode is 0xff"),
    "a gzip cut off": (gzip.compress(BENIGN * 100)[:-12], "unpacks only in part"),
    "a sparse tar": (b"", "sparse"),
    "more opcodes than bytes allow": (gzip.compress(b"N0" * 2_000_000), "longer than any"),
}


@pytest.mark.parametrize("name", NOT_LOOKED_THROUGH)
def test_what_cannot_be_looked_through_is_not_clean(name):
    data, words = NOT_LOOKED_THROUGH[name]
    if name == "nine gzips":
        data = BENIGN
        for _ in range(9):
            data = gzip.compress(data)
    elif name == "encrypted method":
        data = torch_zip().replace(
            b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00\x63\x00"
        )
    elif name == "a sparse tar":
        info = tarfile.TarInfo("x")
        info.type = tarfile.GNUTYPE_SPARSE
        data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    report = scan(data)
    assert report.verdict == "broken"
    assert any(words in problem.what for problem in report.problems), report.problems
    assert "not sure: " in report.to_text()


BOMBS = {
    "gzip": gzip.compress(bytes(300_000_000), 1),
    "a gzip of a pickle": gzip.compress(b"N0" * 40_000_000, 1),
    "one name again and again": torch_zip(b"\x80\x02" + b"cposix\nabort_\n0" * 200_000),
    "signatures": b"PK\x03\x04" * 100_000,
    "ends of archives behind headers": (
        struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) + b"PK\x05\x06"
    )
    * 3000,
    "beginnings of pickles": oldest("views")[:1024] + b"\x80\x02N" * 60_000,
    "pickles in a row": BENIGN * 100_000,
    "members": torch_zip(extra={f"a/{n}": b"\x80\x02N0" * 9 for n in range(5000)}),
    "tar headers": tar(x=b"") * 50,
}


@pytest.mark.parametrize("name", BOMBS)
def test_scanning_takes_time_in_proportion(name):
    started = time.process_time()
    scan(BOMBS[name])
    assert time.process_time() - started < 30


def test_text_and_numbers_are_no_pickles():
    torch.manual_seed(0)
    words = b"click\nhere\nto see the contributors\nalice\nbob\n"

    def noise(nbytes: int) -> bytes:
        # The same in each run: behind a pickle's first two bytes about one in ten thousand is a
        # pickle that names an extension code, and scan is right to say so.
        return bytes(torch.randint(256, (nbytes,), dtype=torch.uint8))

    names = {f"a/data/{n}": noise(999) for n in range(3000)}
    for beginning in (b"\x80\x02", b"\x80\x04", b"c", b"(", b"x\x01", b"PK"):
        names |= {f"a/{beginning.hex()}/{n}": beginning + noise(400) for n in range(300)}
    report = scan(torch_zip(extra={**names, "a/readme": words}))
    assert (report.verdict, report.pickles) == ("clean", 1), report.to_text()
    assert scan(pickle.dumps({"help": words.decode(), "x": words}, 4)).verdict == "clean"
