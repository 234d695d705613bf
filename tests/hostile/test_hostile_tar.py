"""Tars with hostile headers, and the oldest torch files that contradict themselves."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import time

import pytest
from tests.unit.formats.old_writers import Tar, archive
from tests.unit.formats.test_torch_legacy import floats
from tests.unit.formats.test_torch_tar import GRID, ROOT, VIEW, example, persistent, said

from holdfast.errors import FormatError, HoldfastError, RefusedError, TruncatedError

AMBIGUOUS = "The archive is broken, or made so that two programs see two different files in it."


def letter(asm, data: bytes) -> FormatError:
    started = time.process_time()
    with pytest.raises(FormatError) as caught:
        asm.look(data)
    assert time.process_time() - started < 5
    return caught.value


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header with a right checksum, whatever is in it."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)] = name, size
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_member_that_is_there_twice(asm):
    members = example().members()
    whole = archive(members)
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    twice = whole[:end] + archive({"pickle": pickle.dumps("other", 2)})
    error = letter(asm, twice)
    assert str(error) == (
        "refused: no two members have the same name\n"
        "  in <BytesIO>, member 'pickle'\n"
        f"  {AMBIGUOUS}"
    )


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"S", b"Z"])
def test_a_member_that_is_no_plain_file(asm, kind):
    data = header(b"storages", b"0" * 11, kind) + archive({"tensors": b"", "pickle": b""})
    assert letter(asm, data).what == "refused: the members of a checkpoint are plain files"


@pytest.mark.parametrize(
    "size", [b"-0000000001", b"9999999999", b"0x10", b"\xff" * 12, b"1.5", b"\x81" + bytes(11)]
)
def test_sizes_that_are_no_sizes(asm, size):
    error = letter(asm, header(b"storages", size) + bytes(1024))
    assert error.what == "refused: a member's numbers are octal and from 0 on"


@pytest.mark.parametrize(
    "size", [b"77777777777", b"\x80" + b"\xff" * 11, b"\x80" + bytes(3) + b"\x01" * 8]
)
def test_sizes_beyond_the_file(asm, size):
    assert isinstance(letter(asm, header(b"storages", size) + bytes(1024)), TruncatedError)


def test_a_checksum_that_is_wrong(asm):
    data = bytearray(bytes(example()))
    data[5] ^= 1
    assert letter(asm, bytes(data)).what == "refused: the checksum of every header is right"


PAX = {
    "a negative size": b"12 size=-12\n",
    "a size that is none": b"11 size=0x\n",
    "a length that is none": b"x path=a\n",
    "a length beyond the header": b"99 path=a\n",
    "a length of nothing": b"0 path=a\n",
    "a length that repeats itself": b"2 path=a\n",
    "no value": b"7 path\n",
    "a huge length": b"9999999 path=a\n",
    "too many digits": b"9" * 400 + b" path=a\n",
}


@pytest.mark.parametrize("name", PAX)
def test_pax_headers_that_are_broken(asm, name):
    record = PAX[name]
    data = header(b"pax", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")
    error = letter(asm, data + bytes(example()))
    assert error.what in (
        "refused: a pax header is a list of lengths, names and values",
        "refused: a member's size is a number from 0 on",
    )


def test_pax_headers_for_all_members_and_chains_of_them(asm):
    record = b"13 path=pickle\n".replace(b"13", b"15")
    block = b"%011o" % len(record)
    all_of_them = header(b"pax", block, b"g") + record.ljust(512, b"\0") + bytes(example())
    assert letter(asm, all_of_them).what == "refused: no header gives all members one name or size"
    chain = (header(b"pax", block, b"x") + record.ljust(512, b"\0")) * 5000 + bytes(example())
    assert letter(asm, chain).what == "refused: headers that extend another are few and short"
    long = header(b"long", b"%011o" % (2 << 20), b"L") + bytes(2 << 20) + bytes(example())
    assert letter(asm, long).what == "refused: headers that extend another are few and short"


def test_sparse_files_have_holes_that_a_plain_reader_does_not_see(asm):
    record = b"22 GNU.sparse.major=1\n"
    sparse = header(b"pax", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")
    error = letter(asm, sparse + bytes(example()))
    assert error.what in (
        "refused: the members of a checkpoint are plain files",
        "refused: headers that extend another are few and short",
    )


def test_a_name_by_a_pax_header_is_the_name(asm):
    record = b"15 path=pickle\n"
    hidden = header(b"harmless", b"0" * 11)
    data = header(b"pax", b"%011o" % len(record), b"x") + record.ljust(512, b"\0") + hidden
    assert letter(asm, data + bytes(example())).what == "refused: no two members have the same name"


def spoiled(change) -> bytes:
    made = example()
    change(made)
    return bytes(made)


def with_tensor(asm, key, storage, sizes, strides, offset) -> bytes:
    cls = asm.sym("torch", "FloatTensor")
    return spoiled(lambda t: t.tensors.append((said(key, storage, cls), sizes, strides, offset)))


GEOMETRY = {
    "a negative size": ((-1,), (1,), 0),
    "a negative stride": ((2,), (-1,), 0),
    "a negative offset": ((2,), (1,), -1),
    "past the end": ((3, 3), (3, 1), 0),
    "far past the end": ((2**31, 2**31), (2**31, 1), 0),
    "an offset past the end": ((1,), (1,), 2**62),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_tensors_beyond_their_storage(asm, name):
    error = letter(asm, with_tensor(asm, 1, ROOT, *GEOMETRY[name]))
    assert isinstance(error, RefusedError)
    assert error.member == "tensors"


def test_a_tensor_of_a_view_stays_inside_the_view(asm):
    error = letter(asm, with_tensor(asm, 1, VIEW, (6,), (1,), 0))
    assert error.what == "refused: every element of a tensor lies inside its storage"


def test_keys_that_are_not_there_or_there_twice(asm):
    error = letter(asm, with_tensor(asm, 1, 7, (1,), (1,), 0))
    assert error.what == "refused: a tensor is a view of a storage"
    error = letter(asm, with_tensor(asm, GRID, ROOT, (1,), (1,), 0))
    assert error.what == "refused: storages and tensors have keys of their own"
    assert error.found == f"{GRID} twice"
    error = letter(asm, with_tensor(asm, 1, GRID, (1,), (1,), 0))
    assert error.what == "refused: a tensor is a view of a storage"
    for pid in (7, "7", "x", None, (), 2**80, (1, 2)):
        made = spoiled(lambda t, pid=pid: setattr(t, "pickle", asm.pickle({"w": persistent(pid)})))
        error = letter(asm, made)
        assert error.what == "refused: a persistent id names a storage or a tensor"
        assert error.tensor == "w"


def test_storages_that_are_none(asm):
    cls = asm.sym("torch", "FloatStorage")
    for wrong in (
        said(1, "cpu", asm.sym("torch", "Tensor")),
        said(1, "cpu"),
        said("x", "cpu", cls),
    ):
        made = Tar()
        made.storages = [(wrong, *floats(1))]
        error = letter(asm, bytes(made))
        assert error.what == "refused: a storage is a key, a place and a class"
    made.storages = [(said(1, "cpu", cls), -1, b"")]
    assert letter(asm, bytes(made)).what == "refused: a storage is a key, a place and a class"
    made.storages = [(said(1, "cpu", cls), *floats(1))] * 2
    assert letter(asm, bytes(made)).what == "refused: storages and tensors have keys of their own"


@pytest.mark.parametrize("numel", [3, 2**40, 2**62, 2**63 - 1])
def test_a_storage_longer_than_its_member(asm, numel):
    made = Tar()
    made.storages = [(said(1, "cpu", asm.sym("torch", "FloatStorage")), numel, bytes(4))]
    made.views = None
    assert isinstance(letter(asm, bytes(made)), FormatError)
    members = made.members()
    members["storages"] = members["storages"][: -len(pickle.dumps(None, 2))]
    error = letter(asm, archive(members))
    assert isinstance(error, TruncatedError)
    assert error.member == "storages"
    assert error.what == "a member of this file ends too early"


@pytest.mark.parametrize("view", [(1, ROOT, 0, 9), (1, ROOT, 8, 1), (1, VIEW, 4, 2), (1, 7, 0, 1),
                                  (1, ROOT, -1, 1), (1, ROOT, 0, -1), (VIEW, ROOT, 0, 1), (1,), 5,
                                  (1, ROOT, 2**63, 2**63)])  # fmt: skip
def test_views_beyond_their_storage(asm, view):
    error = letter(asm, spoiled(lambda t: t.views.append(view)))
    assert error.what in (
        "refused: a view lies inside its storage",
        "refused: a view is two keys, an offset and a length",
        "refused: storages and tensors have keys of their own",
    )


def test_counts_that_are_none(asm):
    members = example().members()
    for name in ("storages", "tensors"):
        for count in (-1, None, "1", 1.0, True):
            data = archive({**members, name: pickle.dumps(count, 2)})
            assert letter(asm, data).what == "refused: a member begins with a count"
        assert isinstance(
            letter(asm, archive({**members, name: pickle.dumps(2**62, 2)})), FormatError
        )
    axes = example().members()["tensors"]
    place = axes.index(struct.pack("<ii", 2, 0))
    for count in (-1, 65, 2**31 - 1):
        changed = axes[:place] + struct.pack("<i", count) + axes[place + 4 :]
        error = letter(asm, archive({**members, "tensors": changed}))
        assert error.what == "refused: a tensor has at most 64 axes"


def test_code_in_any_of_the_pickles_is_data(asm, tmp_path):
    canary = tmp_path / "ran"
    run = asm.pickle(asm.call(asm.sym("posix", "system"), f"touch {canary}"))
    members = example().members()
    for name in members:
        data = archive({**members, name: run})
        try:
            assert asm.look(data).symbols == ("posix.system",)
        except HoldfastError:
            assert name != "pickle"
    storages = pickle.dumps(0, 2) + asm.pickle(asm.raw(run[2:-1] + b"0" + asm.ops([])))
    data = archive({"storages": storages, "tensors": pickle.dumps(0, 2), "pickle": b"N."})
    assert asm.look(data).symbols == ("posix.system",)
    with pytest.raises(HoldfastError, match=r"posix\.system"):
        asm.load(data)
    assert not canary.exists()


def test_a_file_cut_off_anywhere_is_a_letter_or_whole(asm):
    whole = bytes(example())
    end_of_members = len(whole.rstrip(b"\0"))
    for end in range(end_of_members):
        with pytest.raises(HoldfastError):
            asm.look(whole[:end])


def test_ten_thousand_members_and_more(asm):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for number in range(12_000):
            made.addfile(tarfile.TarInfo(f"{number}.txt"))
    assert letter(asm, buffer.getvalue()).what == "this is a tar archive"
