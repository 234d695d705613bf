"""Ways past a scan that once worked: none of these files may be called clean."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import resource
import struct
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from scanning import (
    BENIGN,
    EVIL,
    before_directory,
    header,
    local_member,
    members,
    oldest,
    pax,
    scan,
    tar,
    tar_of,
    torch_zip,
)
from torch.package import PackageExporter

import holdfast
from holdfast.errors import RefusedError
from holdfast.io.source import Memory
from holdfast.pickles.symbols import walk


def linked_storages() -> bytes:
    storages = pickle.dumps(1, 2) + b"\x80\x02]X\x01\0\0\0ka." + struct.pack("<q", 0) + EVIL[2:]
    return tar_of(header(b"foo", storages), header(b"storages", b"", kind=b"1", link=b"foo"))


def resized() -> bytes:
    """The size of a member is in an extended header, and another header follows that one."""
    size = header(b"p", pax(size=str(len(EVIL))), kind=b"x")
    long = header(b"././@LongLink", b"pickle\0", kind=b"L")
    return tar_of(header(b"a", b"x"), size, long, header(b"foo", b""), EVIL.ljust(512, b"\0"))


def with_a_long_frame() -> bytes:
    """A legacy file whose first pickle has a frame that reaches beyond its end."""
    magic = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    system = {"protocol_version": 1001, "little_endian": True}
    real = pickle.dumps(1001, 2) + pickle.dumps(system, 2) + EVIL + pickle.dumps([], 2)
    junk = 20_000 - len(magic) - 5
    swallows = b"B" + struct.pack("<I", junk + len(real)) + b"\xff" * junk
    return b"\x80\x04\x95" + struct.pack("<Q", 20_000) + magic + swallows + real + b"."


def far_memo() -> bytes:
    """The memo's numbers are written with thousands of spaces before them."""
    put = b"p" + b" " * 5000
    known = b"X\x0b\0\0\0collectionsq\0X\x0b\0\0\0OrderedDictq\1"
    hidden = b"X\5\0\0\0posix" + put + b"0\nX\6\0\0\0abort_" + put + b"1\n"
    return b"\x80\x04" + known + hidden + b"h\0h\1\x93)R."


def listed_storage() -> bytes:
    """What torch unpacks is a list, and no pickle begins as later ones do."""
    storages = (
        pickle.dumps(1, 2)
        + b"\x80\x02](X\1\0\0\0kX\3\0\0\0cpuctorch\nFloatStorage\ne."
        + struct.pack("<q3f", 3, 1, 2, 3)
        + EVIL[2:]
    )
    return tar_of(header(b"storages", storages), header(b"pickle", BENIGN))


def deflated(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def packed_otherwise_by_the_directory() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x", EVIL)
    data = bytearray(buffer.getvalue())
    data[8:10] = b"\0\0"
    return b"hello\n" + bytes(data)


def lzma_of(**properties: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, **properties}]
    return lzma.compress(EVIL, format=lzma.FORMAT_ALONE, filters=filters)


def flatbuffer() -> bytes:
    """As ``torch.jit.save_jit_module_to_flatbuffer`` writes it."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # that torch.jit is deprecated
        path = Path(folder, "m")
        torch.jit.save_jit_module_to_flatbuffer(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
        return path.read_bytes()


def fake_header_in_a_long_name() -> bytes:
    """What looks like a header lies in the data of an extended one, and says nothing."""
    fake = b"storages".ljust(512, b"\0") + header(b"x", b"")
    return oldest(header(b"././@LongLink", fake, kind=b"L"))


def small_header(name: bytes, data: bytes, field) -> bytes:
    """A header with a name, a size and a checksum alone."""
    made = bytearray(512)
    made[: len(name)], made[124:135] = name, b"%011o" % len(data)
    made[148:156] = b" " * 8
    made[148:156] = field(sum(made))
    return bytes(made) + data + bytes(-len(data) % 512)


def sized_by_another_symbol() -> bytes:
    """The class of a storage is an object with a type of its own: torch steps over more."""
    swallowed = EVIL + pickle.dumps([], 2)
    bytes_of = b"\x80\x02B" + struct.pack("<I", 153 + len(swallowed)) + b"\xff" * 153
    storages = (
        pickle.dumps(1, 2)
        + b"\x80\x02(ctorch\nFloatStorage\nX\3\0\0\0cpuccollections\nOrderedDict\n)R}"
        + b"X\6\0\0\0_dtypectorch\nfloat64\nsbt."
        + struct.pack("<q", 40)
        + bytes(160)
        + bytes_of
        + swallowed
        + b"."
    )
    return tar_of(header(b"storages", storages), header(b"pickle", BENIGN))


MEMO_KEPT = (
    b"\x80\x04\x8c\x05posix\x94\x8c\x06abort_\x94\x86."
    b"\x80\x04\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x9400h\x00h\x01\x93)R."
)


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def package() -> bytes:
    buffer = io.BytesIO()
    with PackageExporter(buffer) as exporter:
        exporter.save_source_string("mine", "x = 1")
        exporter.save_pickle("data", "data.pkl", {"a": 1})
    return buffer.getvalue()


def behind_a_deflated_member() -> bytes:
    data = bytearray(torch_zip(BENIGN, compression=zipfile.ZIP_DEFLATED))
    packed = zlib.compressobj(wbits=-15)
    stream = packed.compress(b"") + packed.flush()
    start = data.index(b"a/data.pkl") + len(b"a/data.pkl")
    data[start : start + len(stream)] = stream
    return bytes(data)


#: What each file is found out by: a symbol, a program, or words of a problem.
EVASIONS: dict[str, tuple[bytes, str]] = {
    # numbers that a reader takes and that other languages write otherwise
    **{
        f"the number {line!r}": (line + b"\n0" + EVIL[2:], "symbol")
        for line in (b"I0x10", b"I010", b"I 5 ", b"L0x10L", b"I5\0zz", b"F5.0\0zz", b"I0b1")
    },
    "a memo's number behind a NUL": (b"Np0\0q\n0" + EVIL[2:], "symbol"),
    "no state for None": (b"NNb0" + EVIL[2:], "symbol"),
    "an empty state for a list": (b"]}b0" + EVIL[2:], "symbol"),
    "an import, then garbage": (b"cposix\nabort_\n\xff", "symbol"),
    "an import and no end": (b"cposix\nabort_", "symbol"),
    "an import, then garbage, in a member": (
        torch_zip(extra={"b/DATA.PKL": b"\x80\x02cposix\nabort_\n\xff"}),
        "symbol",
    ),
    "a memo's number with underscores": (b"K\0p" + b"0_" * 2200 + b"0\n0" + EVIL[2:], "symbol"),
    "a memo's number of 5000 digits": (
        b"K\0p" + b"1" * 5000 + b"\n0" + b"K\0q\0h\0p7\n0" + EVIL[2:],
        "symbol",
    ),
    "a number that is NUL": (b"I\0\n0" + EVIL[2:], "symbol"),
    "a number that is NUL, in a member": (deflated(x=b"\x80\x04I\0\n0" + EVIL[2:]), "symbol"),
    "a number that is NUL, in a tar": (
        tar(pickle=b"\x80\x02I\0\n0" + EVIL[2:], storages=b"", tensors=b""),
        "symbol",
    ),
    "a memo kept from the pickle before": (MEMO_KEPT, "symbol"),
    # frames whose edges one reader does not see
    "a frame that ends in a name": (
        b"\x95" + struct.pack("<Q", 2) + b"cposix\nabort_\n.",
        "unknown",
    ),
    "a frame longer than the file": (b"\x95" + struct.pack("<Q", 999) + EVIL[2:], "symbol"),
    "a frame longer than its pickle": (with_a_long_frame(), "unknown"),
    "a memo's numbers behind spaces": (far_memo(), "symbol"),
    # what follows something else
    "junk, then a pickle": (b"(lp0\n.\xffjunk" + EVIL, "nothing that is known"),
    "PK and no archive": (b"PK\n0" + EVIL[2:], "symbol"),
    "behind a gzip": (gzip.compress(BENIGN) + EVIL, "symbol"),
    "behind a gzip and zeros": (gzip.compress(BENIGN) + b"\0\0" + gzip.compress(EVIL), "symbol"),
    "behind a zlib stream": (zlib.compress(BENIGN) + zlib.compress(EVIL), "symbol"),
    "a gzip of many small pickles": (gzip.compress(b"N." * 40_000 + EVIL[2:]), "symbol"),
    "many small pickles in a member": (
        torch_zip(extra={"x": b"N." * 40_000 + EVIL[2:]}, compression=zipfile.ZIP_DEFLATED),
        "symbol",
    ),
    "a prefixed archive in a gzip": (gzip.compress(b"#!/x\n" + torch_zip(EVIL)), "symbol"),
    "lzma": (lzma.compress(EVIL, format=lzma.FORMAT_ALONE), "packed with lzma"),
    "lz4": (b"\x04\x22\x4d\x18" + EVIL, "packed with lz4"),
    "bzip2": (bz2.compress(EVIL), "packed with bzip2"),
    "behind a deflated member": (behind_a_deflated_member(), "looked through by nobody"),
    # tar
    "a member without a name first": (tar_of(header(b"", b"x"), header(b"pickle", EVIL)), "symbol"),
    "a checksum in binary": (
        tar_of(header(b"pickle", EVIL, checksum=lambda s: b"\x80" + s.to_bytes(7, "big"))),
        "symbol",
    ),
    "a checksum as Python writes it": (
        tar_of(header(b"pickle", EVIL, checksum=lambda s: (b"0o%o" % s).ljust(8, b"\0"))),
        "symbol",
    ),
    "a sparse member of pax": (
        tar_of(
            header(b"x", pax(GNU_sparse="1"), kind=b"x"),
            header(b"pickle", b"1\n0\n19\n".ljust(512, b"\0") + EVIL),
        ),
        "sparse",
    ),
    "storages by a name of pax": (oldest(header(b"p", pax(path="storages"), kind=b"x")), "symbol"),
    "storages by a name of pax for all": (
        oldest(header(b"p", pax(path="storages"), kind=b"g"), header(b"x", b"")),
        "symbol",
    ),
    "storages by a long name of GNU": (
        oldest(header(b"././@LongLink", b"storages\0", kind=b"L")),
        "symbol",
    ),
    "a checksum behind a separator": (
        oldest(name=b"storages", checksum=lambda s: b"\x1f%06o\0" % s),
        "symbol",
    ),
    "a header inside a long name": (fake_header_in_a_long_name(), "symbol"),
    "a checksum with rubbish behind its NUL": (
        tar_of(small_header(b"pickle", EVIL, lambda s: (b"%o\0" % s).ljust(8, b"z")))
        + small_header(b"other", EVIL, lambda s: (b"%o\0" % s).ljust(8, b"z")),
        "symbol",
    ),
    "an import in the pickle of a tar": (
        tar(
            storages=pickle.dumps(0, 2), tensors=pickle.dumps(0, 2), pickle=b"cposix\nabort_\n\xff"
        ),
        "symbol",
    ),
    "the same by a name of pax": (
        tar_of(
            header(b"storages", pickle.dumps(0, 2)),
            header(b"p", pax(path="pickle"), kind=b"x"),
            header(b"foo", b"cposix\nabort_\n\xff"),
        ),
        "symbol",
    ),
    "no class in a tar's tensors": (
        tar_of(
            header(
                b"tensors",
                pickle.dumps(1, 2)
                + pickle.dumps((7, "k", None), 2)
                + struct.pack("<ii", 74, 0)
                + b"0B"
                + struct.pack("<I", 148 * 8)
                + bytes(148 * 8)
                + EVIL,
            )
        ),
        "not sure",
    ),
    "a class of a storage that is none": (sized_by_another_symbol(), "not sure"),
    "a size of pax before a long name": (resized(), "symbol"),
    "a link to the storages": (linked_storages(), "a link stands for"),
    "a list in place of a tuple": (listed_storage(), "not understood"),
    # packings of other readers
    "a long text in a deflated member": (
        deflated(x=b"X" + struct.pack("<I", 70_000) + b"a" * 70_000 + b"0" + EVIL),
        "symbol",
    ),
    "a long text in quotes in a deflated member": (
        deflated(x=b"S'" + b"a" * 70_000 + b"'\n0" + EVIL[2:]),
        "symbol",
    ),
    "a directory that knows better": (packed_otherwise_by_the_directory(), "cannot be looked"),
    "lzma of a small dictionary": (lzma_of(dict_size=4096), "packed with lzma"),
    "lzma of an odd dictionary": (
        lzma_of()[:1] + struct.pack("<I", 0x123400) + lzma_of()[5:],
        "packed with lzma",
    ),
    "lzma of other properties": (lzma_of(lc=0, lp=0, pb=0), "packed with lzma"),
    "joblib's oldest": (
        b"ZF" + hex(len(EVIL)).encode().ljust(19) + zlib.compress(EVIL),
        "by an old joblib",
    ),
    "joblib's oldest, other digits": (
        b"ZF" + b"%019x" % len(EVIL) + zlib.compress(EVIL),
        "by an old joblib",
    ),
    "a frame of zstd to be passed over": (b"\x50\x2a\x4d\x18\1\0\0\0x", "zstd or lz4"),
    "a zlib stream that breaks": (zlib.compress(EVIL * 50)[:-8], "only in part"),
    # what older NumPy hands through
    "a class handed through by NumPy": (
        b"\x80\4cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\2\0\0\0O8K\0K\1tR"
        b"ccollections\nCounter\ntR(N}X\3\0\0\0xyzK\7stb.",
        "patched",
    ),
    # programs
    "TorchScript of torch 1.0": (zip_of(a__model_dot_json=b"{}", a__x=b"def f(): pass"), "program"),
    "TorchScript in a flatbuffer": (flatbuffer(), "program"),
    "an export of torch 2.1": (
        zip_of(serialized_exported_program_dot_json=b"{}", version=b"5.1"),
        "program",
    ),
    "torch.package": (package(), "program"),
    "TorchScript in capitals": (
        zip_of(a__data_dot_pkl=BENIGN, a__CONSTANTS_dot_PKL=b"\x80\x02).", a__CODE__x=b"x"),
        "program",
    ),
}


@pytest.mark.parametrize("name", EVASIONS)
def test_no_way_past_is_open(name):
    data, how = EVASIONS[name]
    report = scan(data)
    assert not report.ok, report.to_text()
    if how == "symbol":
        assert members(report), report.to_text()
    elif how == "program":
        assert report.programs
    elif how == "patched":
        assert any("patched" in symbol.how for symbol in report.symbols)
    elif how == "unknown":
        assert any((s.module, s.name) == ("", "unknown") for s in report.symbols)
    else:
        assert any(how in problem.what for problem in report.problems), report.problems


def folders() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.mkdir("a")
        archive.writestr("a/data.pkl", BENIGN)
        archive.mkdir("a/data")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    for number in range(30):
        np.save(buffer, np.full(3, number))
    return buffer.getvalue()


def states() -> bytes:
    buffer = io.BytesIO()
    for number in range(12):
        torch.save({"w": torch.ones(number)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def tar_of_pax(name: str = "net.pt") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(torch_zip()), 1.5  # a time with a fraction needs pax
        archive.addfile(info, io.BytesIO(torch_zip()))
    return buffer.getvalue()


def a_prefix_and_a_late_end() -> bytes:
    """A program behind other bytes, its end record farther from the end than zipfile looks."""
    return b"hello world\n" + zip_of(a__constants_dot_pkl=b"\x80\2)." * 2) + b"z" * 68_000


def test_an_end_record_is_seen_as_far_from_the_end_as_miniz_sees_it():
    assert not scan(a_prefix_and_a_late_end()).ok


def test_folders_that_torch_may_read_otherwise(tmp_path):
    """Extra numbers before the description, and a file of another kind where slices lie."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path)
    assert holdfast.scan(tmp_path).ok
    metadata = (tmp_path / ".metadata").read_bytes()
    for broken in (b"I0x10\n0" + metadata, metadata[:-1] + b"\x85R."):
        (tmp_path / ".metadata").write_bytes(broken)
        assert not holdfast.scan(tmp_path).ok
    (tmp_path / ".metadata").write_bytes(metadata)
    for data in (gzip.compress(EVIL), tar(pickle=EVIL), bz2.compress(EVIL)):
        (tmp_path / "x.distcp").write_bytes(data)
        assert not holdfast.scan(tmp_path).ok


@pytest.mark.parametrize("place", ["weights.bin", "sub/__0_0.distcp", "../up.bin", "gone.bin"])
def test_a_slice_is_looked_at_wherever_the_description_says_it_lies(place, tmp_path):
    folder = tmp_path / "folder"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save({"w": torch.ones(3), "x": [1]}, checkpoint_id=folder)
    data = (folder / "__0_0.distcp").read_bytes()
    file = (folder / place).resolve()
    file.parent.mkdir(exist_ok=True)
    description = pickle.loads((folder / ".metadata").read_bytes())
    info = next(i for key, i in description.storage_data.items() if key.fqn == "w")
    info.relative_path, info.offset, info.length = place, 5000, len(EVIL)
    (folder / ".metadata").write_bytes(pickle.dumps(description))
    (folder / "__0_0.distcp").write_bytes(data)
    if place != "gone.bin":
        file.write_bytes(b"\xff" * 5000 + EVIL)
    report = holdfast.scan(folder)
    assert not report.ok
    if place in ("weights.bin", "sub/__0_0.distcp"):
        assert members(report)


def test_the_files_of_a_listing_are_looked_at(tmp_path):
    listing = tmp_path / "m" / "pytorch_model.bin.index.json"
    listing.parent.mkdir()
    for name, is_known in (("evil.bin", True), ("../up.bin", False), ("gone.bin", False)):
        if name != "gone.bin":
            (listing.parent / name).write_bytes(torch_zip(EVIL))
        listing.write_text(json.dumps({"metadata": {}, "weight_map": {"w": name}}))
        report = holdfast.scan(listing)
        assert not report.ok
        assert bool(members(report)) is is_known
        if not is_known:
            (listing.parent / "evil.bin").unlink(missing_ok=True)
            assert not holdfast.scan(listing.parent).ok


@pytest.mark.parametrize(
    "number", [b"I020\n", b"I 5\n", b"I1_0\n", b"L020L\n", b"F1_0.0\n", b"F 1.0\n"]
)
def test_a_number_that_two_readers_read_in_two_ways_is_refused(number, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(torch_zip(b"\x80\x02" + number + b"\n."))
    with pytest.raises(RefusedError, match="numbers are written as Python writes them"):
        holdfast.load(path)


def old_states(protocol: int) -> bytes:
    buffer = io.BytesIO()
    tree = {"a": torch.randn(5), "b": torch.randn(100)}
    torch.save(tree, buffer, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    return buffer.getvalue()


def test_the_description_of_a_rank_alone_is_known(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path)
    (tmp_path / "__0.metadata").write_bytes((tmp_path / ".metadata").read_bytes())
    assert holdfast.scan(tmp_path).ok


HARMLESS = {
    **{f"a legacy file of protocol {p}": old_states(p) for p in (2, 3, 4, 5)},
    "numbers that begin as an extension code": torch_zip(extra={"a/data/0": b"\x84\1\2\3\4."}),
    **{
        f"safetensors with a header of {nbytes} bytes": save(
            {"w": torch.arange(4.0)}, {"a": "x" * (nbytes - 86)}
        )
        for nbytes in (640, 896, 1152, 1408)
    },
    "a tar of pax": tar_of_pax(),
    "a tar of pax, of long names": tar_of_pax("pickles/storages_of/tensors/" + "x" * 120 + ".pt"),
    "numbers that begin as LZMA does": (
        np.array([1, 64, -1], np.int64).tobytes() + np.arange(400.0).tobytes()
    ),
    "an archive with entries for folders": folders(),
    "thirty arrays in one file": arrays(),
    "twelve states in one file": states(),
    "gzip and zeros": gzip.compress(BENIGN) + bytes(10),
    "int64 numbers like lzma": torch_zip(extra={"a/data/0": struct.pack("<4q", 93, 1, 2, 3)}),
    "text": b"cat\n dog\nInk\n",
    "text that begins with the first byte of zlib": b"xyz\n",
    "a signature of zip members by chance": before_directory(
        torch_zip(), local_member(b"x", b"", method=0x1234)
    ),
    "a tar": tar(a=b"hello"),
    "a frame of each opcode": pickle.dumps({"a": [1, "x" * 70_000, b"y" * 70_000, "z"]}, 4),
}


def test_slices_by_the_ten_thousand_take_no_long_time(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path)
    description = pickle.loads((tmp_path / ".metadata").read_bytes())
    key, info = next(iter(description.storage_data.items()))
    entry = description.state_dict_metadata[key.fqn]
    for number in range(10_000):
        name = f"w{number}"
        description.state_dict_metadata[name] = entry
        description.storage_data[replace(key, fqn=name)] = replace(info, offset=number)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(description))
    started = time.process_time()
    holdfast.scan(tmp_path)
    assert time.process_time() - started < 30


def test_of_a_folder_every_file_is_looked_through(tmp_path):
    (tmp_path / "step-0000010.pt").write_bytes(torch_zip())
    assert holdfast.scan(tmp_path).ok
    (tmp_path / "aaa.pt").write_bytes(torch_zip(EVIL))
    assert members(holdfast.scan(tmp_path)) == ["a/data.pkl"]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_clean(name):
    report = scan(HARMLESS[name])
    assert report.ok, report.to_text()


# ---- what the readers of Python itself would look up


class _Thing:
    """Whatever a symbol stands for: it may be called, filled, and given a state."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> _Thing:
        return _Thing()

    def __setstate__(self, state: Any) -> None: ...


class _InC(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.looked_up: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.looked_up.add((module, name))
        return _Thing

    def persistent_load(self, pid: Any) -> Any:
        return _Thing()


class _InPython(pickle._Unpickler):  # type: ignore[name-defined]
    find_class, persistent_load = _InC.find_class, _InC.persistent_load

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.looked_up = set()


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Room for a quarter of a GiB more: a far number makes a memo of dozens, of pages to be had."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + (256 << 20)
    if before[1] != resource.RLIM_INFINITY:
        room = min(room, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def looked_up(data: bytes) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for reader in (_InC(data), _InPython(data)):
        with little_memory(), contextlib.suppress(Exception):
            reader.load()  # whatever the end, what came before counts
        found |= reader.looked_up
    return found


def test_what_is_looked_up_is_seen():
    assert looked_up(b"cposix\nsystem\n.") == {("posix", "system")}


NAMES = st.sampled_from([b"posix", b"os", b"a.b", b"x"])
NUMBERS = st.sampled_from(
    [b"0", b"1", b"01", b"0x1", b" 1", b"1L", b"+1", b"-1", b"1_0", b"", b"1\0z", b"1\r", b"0b1"]
)


def sized(text: bytes, opcode: bytes) -> bytes:
    width = {b"\x8c": 1, b"U": 1, b"C": 1, b"X": 4, b"T": 4, b"B": 4}.get(opcode, 8)
    return opcode + len(text).to_bytes(width, "little") + text


OPCODES = st.one_of(
    st.sampled_from([bytes([code]) for code in b"N\x88\x89)]}\x8f(012t\x85\x86\x87ld\x91aseu\x90"]),
    st.builds(
        lambda code, n: code + n + b"\n", st.sampled_from([b"I", b"L", b"F", b"p", b"g"]), NUMBERS
    ),
    st.builds(lambda code, n: bytes([code, n]), st.sampled_from(b"qhK"), st.integers(0, 3)),
    st.builds(lambda m, n: b"c" + m + b"\n" + n + b"\n", NAMES, NAMES),
    st.builds(lambda m, n: b"i" + m + b"\n" + n + b"\n", NAMES, NAMES),
    st.builds(sized, NAMES, st.sampled_from([bytes([code]) for code in b"\x8cUCXTB\x8d\x8e\x96"])),
    st.sampled_from([b"\x94", b"\x93", b"R", b"\x81", b"\x92", b"b", b"o", b"Px\n", b"Q", b"."]),
    st.builds(lambda n: b"\x95" + struct.pack("<Q", n), st.integers(0, 12) | st.just(200)),
    st.builds(lambda n: b"\x80" + bytes([n]), st.integers(0, 6)),
    st.binary(min_size=1, max_size=2),
)


@given(st.lists(OPCODES, min_size=1, max_size=25).map(b"".join))
@settings(max_examples=1000)
@example(b"\x95\x02\0\0\0\0\0\0\0csystem\nsystem\n\x87")
@example(b"\x95\x09\0\0\0\0\0\0\0\x8b\x01\0\0\0\x01p0b1\ncos\nsystem\n.")
@example(b"iNN")
@example(b"cposix\nsystem\nr\xff\xff\xff\x7f.")
@example(b"cposix\nsystemx")
@example(b"NNb0cposix\nabort_\n.")
def test_whatever_a_reader_looks_up_the_walk_has_named(data):
    if not (found := looked_up(data)):
        return
    for is_guess in (True, False):
        walked = walk(Memory(data, "f"), 0, is_guess=is_guess)
        names = {(s.raw_module, s.raw_name) for s in walked.symbols}
        names |= {(s.module, s.name) for s in walked.symbols}
        # A name that is known only at run time stands for all that follow from it.
        assert ("", "unknown") in names or found <= names, (data, found, names)
