"""Tar archives in a scan: headers as any reader may take them, and torch's oldest files."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile

import pytest
from scanning import BENIGN, EVIL, header, members, oldest, pax, scan, tar, tar_of

from holdfast.report.findings import TOO_MANY

COUNT = pickle.dumps(0, 2)


def whats(data: bytes) -> list[str]:
    return [problem.what for problem in scan(data).problems]


def names(data: bytes) -> list[str]:
    """Those that Python's reader finds."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
def test_every_kind_of_extended_header_names_what_follows_it(kind):
    data = pax(path="storages") if kind in b"xgX" else b"storages\0"
    assert members(scan(oldest(header(b"p", data, kind=kind)))) == ["foo"]


@pytest.mark.parametrize("kind", [b"x", b"g", b"X"])
def test_every_extended_header_of_pax_sizes_what_follows_it(kind):
    size = header(b"p", pax(size=str(len(EVIL))), kind=kind)
    assert members(scan(tar_of(size, header(b"foo", b""), EVIL.ljust(512, b"\0")))) == ["foo"]


def test_what_an_extended_header_says_counts_behind_a_second_one_as_well():
    named = header(b"p", b"storages\0", kind=b"L"), header(b"p", pax(mtime="1"), kind=b"x")
    assert members(scan(oldest(*named))) == ["foo"]


def test_an_extended_header_is_looked_through_up_to_a_mebibyte():
    for nbytes in (1 << 20, (1 << 20) + 1):
        found = whats(tar_of(header(b"p", b"x" * nbytes, kind=b"x")))
        said = ["an extended header of more than 1 MiB is not looked through"]
        assert found == (said if nbytes > 1 << 20 else [])


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_for_what_torch_reads_is_told(kind):
    data = tar_of(header(b"foo", COUNT), header(b"storages", b"", kind=kind, link=b"foo"))
    assert whats(data) == ["a link stands for what torch reads: unpack the tar first"]


LETTERS = b"\x81" * 93
CHECKSUMS = {
    "a sum of signed bytes": lambda total: b"%06o\0 " % (total - 256 * 20),
    "the same, below 0": lambda total: b"\xff" + (total - 256 * 93).to_bytes(7, "big", signed=True),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_of_signed_bytes_is_one(name):
    letters = LETTERS[:20] if name == "a sum of signed bytes" else LETTERS
    data = tar_of(header(b"a\0" + letters, EVIL, checksum=CHECKSUMS[name]))
    assert names(data) == ["a"]
    assert members(scan(data)) == ["a"]


@pytest.mark.parametrize("size", [b"zzz", b"0x10"])
def test_a_member_whose_size_is_no_number_may_be_all_that_follows(size):
    assert members(scan(tar_of(header(b"a", EVIL, size=size)))) == ["a"]


@pytest.mark.parametrize("size", [b"-1", b"\xff" * 12])
def test_behind_a_member_of_a_negative_size_others_are_found(size):
    assert "b" in members(scan(tar_of(header(b"a", b"", size=size), header(b"b", EVIL))))


def test_a_folder_has_no_bytes_of_its_own():
    """Whatever its size says: what follows it are other members, which are not in it."""
    folder = header(b"d", b"", kind=tarfile.DIRTYPE, size=b"%011o" % 1024)
    data = tar_of(folder, header(b"a", EVIL))
    assert names(data) == ["d", "a"]
    assert members(scan(data)) == ["a"]


@pytest.mark.parametrize("count", [10_000, 10_001])
def test_headers_without_end_are_told(count):
    assert whats(tar_of(header(b"a", b"") * count)) == ([TOO_MANY] if count > 10_000 else [])


# ---- pickles and raw numbers that take turns


def storages(data: bytes) -> bytes:
    return tar(storages=data, tensors=COUNT, pickle=BENIGN)


def test_zeros_behind_the_last_storage_are_padding():
    report = scan(storages(COUNT + bytes(600)))
    assert (report.verdict, report.pickles) == ("clean", 3)


@pytest.mark.parametrize("nbytes", [600, (1 << 20) - 1, 1 << 20])
def test_what_is_not_understood_is_searched_for_pickles(nbytes):
    """Also where a window ends between the first and the second byte of one."""
    report = scan(storages(COUNT + b"\xff" * nbytes + EVIL))
    assert members(report) == ["storages"]
    [problem] = report.problems
    assert problem.what == "what follows its pickles at byte 5 is not understood"


def test_how_much_follows_a_class_that_is_none_of_storages_is_not_sure():
    made = b"\x80\x02(X\1\0\0\0kX\3\0\0\0cpuctorch\nTensor\nt." + struct.pack("<q3f", 3, 1, 2, 3)
    assert "how much lies behind byte 38 is not sure" in whats(storages(COUNT + made + COUNT))


@pytest.mark.parametrize("size", [b"-1", b"-777", b"\xff" * 12])
def test_what_a_reader_takes_of_a_member_of_a_negative_size_is_looked_through(size):
    """tarfile of Python 3.11.7 takes ``size % 16384`` bytes, and torch.load follows them."""
    storages = header(b"storages", EVIL, size=size)
    data = tar_of(header(b"tensors", COUNT), header(b"pickle", BENIGN), storages) + bytes(20_000)
    assert scan(data).verdict == "harmful"
