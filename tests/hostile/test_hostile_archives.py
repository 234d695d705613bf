"""Archives in which two readers could see two different files."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
import torch

from holdfast.errors import DamagedError, FormatError, RefusedError, TruncatedError

CURE = "The archive is broken, or made so that two programs see two different files in it."


@pytest.fixture
def good(asm) -> bytes:
    return asm.file({"w": asm.tensor()})


def directory_of(data: bytes) -> int:
    return struct.unpack_from("<I", data, len(data) - 6)[0]


def entry_of(data: bytes, name: bytes) -> int:
    """Where the central entry of a member starts."""
    return data.index(name, directory_of(data)) - 46


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def refusal(asm, data: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        asm.look(data)
    assert caught.value.file == "<BytesIO>"
    return caught.value


def zipped(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def test_the_archive_that_the_others_are_made_of_is_good(asm, good):
    assert asm.load(good)["w"].tolist() == [0, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("twin", ["a/data/0", "a/DATA/0", "A/data/0"])
def test_members_of_one_name_or_differing_in_case_are_refused(asm, twin):
    pickle = asm.pickle({"w": asm.tensor()})
    members = [("a/data.pkl", pickle), ("a/data/0", bytes(16)), (twin, b"x" * 16)]
    error = refusal(asm, zipped([*members, ("a/version", b"3")]))
    assert error.what == "refused: no two members have the same name, nor differ in case"
    assert error.member == twin
    assert error.cure == CURE


def test_a_local_name_that_differs_from_the_central_one_is_refused(asm, good):
    error = refusal(asm, patched(good, good.index(b"a/data/0"), b"a/data/1"))
    assert error.what == "refused: local and central headers name a member alike"
    assert error.member == "a/data/0"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        (8, b"\x08\0", "local and central headers agree on compression"),
        (14, b"\1\2\3\4", "local and central headers agree on the CRC"),
        (18, b"\1\0\0\0", "local and central headers agree on sizes"),
        (22, b"\1\0\0\0", "local and central headers agree on sizes"),
        (0, b"PK\5\6", "every member has a local header"),
        (28, b"\xff\xff", "members lie before the central directory"),
    ],
)
def test_local_headers_that_differ_from_the_central_ones_are_refused(asm, good, field, value, rule):
    header = good.index(b"a/data/0") - 30
    assert refusal(asm, patched(good, header + field, value)).what == f"refused: {rule}"


@pytest.mark.parametrize("junk", [b"\0", b"PK\x03\x04", b"x" * 1000])
def test_anything_behind_the_end_record_is_refused(asm, good, junk):
    error = refusal(asm, good + junk)
    assert error.what == "refused: nothing follows the end record of an archive"


def test_a_comment_behind_the_end_record_is_refused(asm, good):
    error = refusal(asm, patched(good, len(good) - 2, b"\4\0") + b"abcd")
    assert error.what == "refused: nothing follows the end record of an archive"


def test_one_archive_behind_another_is_refused(asm, good):
    # Programs that search for the end see the second, those that read from the start the first.
    error = refusal(asm, good + good)
    assert error.what == "refused: the central directory ends where the end record begins"


def test_overlapping_members_are_refused(asm, good):
    pickle_header = struct.pack("<I", good.index(b"a/data.pkl") - 30)
    entry = entry_of(good, b"a/byteorder")
    # Two entries of one local header: the name gives it away first.
    error = refusal(asm, patched(good, entry + 42, pickle_header))
    assert error.what == "refused: local and central headers name a member alike"
    # A member that reaches over the next one.
    size = struct.pack("<II", 20, 20)
    at = good.index(b"a/data/0") - 30
    grown = patched(patched(good, entry_of(good, b"a/data/0") + 20, size), at + 18, size)
    assert refusal(asm, grown).what == "refused: members do not overlap"


def test_members_outside_the_folder_are_refused(asm):
    pickle = asm.pickle({"w": asm.tensor()})
    inside = [("a/data.pkl", pickle), ("a/data/0", bytes(16)), ("a/version", b"3")]
    error = refusal(asm, zipped([*inside, ("b/data/0", bytes(16))]))
    assert error.what == "refused: all members of a checkpoint lie in one folder"
    assert error.member == "b/data/0"


@pytest.mark.parametrize(
    "name", ["a/../data/0", "a//data/0", "a/./x", "/a/x", "a\\x", "C:/x", "a/x\0y"]
)
def test_names_that_are_no_plain_paths_are_refused(asm, name):
    pickle = asm.pickle(1)
    stand_in = "".join("_" if c in "/\\:\0." else c for c in name)
    data = zipped([("a/data.pkl", pickle), ("a/version", b"3"), (stand_in, b"")])
    error = refusal(asm, data.replace(stand_in.encode(), name.encode()))
    assert error.what == "refused: names of members are plain paths"


def test_a_compressed_storage_is_refused(asm):
    pickle = asm.pickle({"w": asm.tensor()})
    members = [("a/data.pkl", pickle), ("a/data/0", bytes(16)), ("a/version", b"3\n")]
    error = refusal(asm, zipped(members, zipfile.ZIP_DEFLATED))
    assert error.what == "refused: storages are not compressed"
    assert error.tensor == "w"


def test_a_compressed_pickle_is_read_and_a_bomb_is_not(asm):
    pickle = asm.pickle({"text": "x" * 100_000})
    data = zipped([("a/data.pkl", pickle), ("a/version", b"3\n")], zipfile.ZIP_DEFLATED)
    assert asm.look(data).tree == {"text": "x" * 100_000}
    for stated in (len(pickle) - 1, len(pickle) + 1, 1 << 31):
        size = struct.pack("<I", stated)
        at = data.index(b"a/data.pkl") - 30
        central = entry_of(data, b"a/data.pkl") + 24
        error = refusal(asm, patched(patched(data, central, size), at + 22, size))
        assert error.what == (
            "refused: a compressed member unpacks to the size it states, which is small"
        )


def test_encrypted_members_are_refused(asm, good):
    at = entry_of(good, b"a/data/0")
    error = refusal(asm, patched(good, at + 8, b"\1\0"))
    assert error.what == "refused: members are stored or deflated, and not encrypted"


@pytest.mark.parametrize("count", [0, 3, 5, 65534])
def test_a_directory_of_another_length_is_refused(asm, good, count):
    both = struct.pack("<HH", count, count)
    error = refusal(asm, patched(good, len(good) - 14, both))
    assert error.what == "refused: the central directory holds its entries and nothing else"


def test_end_records_that_disagree_are_refused(asm):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, buffer)  # always writes both
    data = buffer.getvalue()
    error = refusal(asm, patched(data, len(data) - 12, b"\1\0"))
    assert error.what == "refused: both end records say the same"
    locator = len(data) - 42
    error = refusal(asm, patched(data, locator + 8, b"\0" * 8))
    assert error.what == "refused: the ZIP64 end record lies right before its locator"
    end64 = locator - 56
    error = refusal(asm, patched(data, end64 + 24, b"\1\0"))
    assert error.what == "refused: an archive is one file"


def test_a_million_entries_are_refused_before_they_are_read(asm):
    count, nbytes = 2_000_000, 92_000_000
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, buffer)
    data = buffer.getvalue()
    end64 = len(data) - 98
    head = struct.pack("<QQQQ", count, count, nbytes, 0)
    start = data[:end64] + bytes(nbytes - end64)
    tail = data[end64 : end64 + 24] + head
    tail += b"PK\x06\x07" + struct.pack("<IQI", 0, nbytes, 1)
    tail += b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    error = refusal(asm, start + tail)
    assert error.what == "refused: an archive has at most 1,000,000 members"


def test_small_members_that_are_large_are_refused(asm):
    data = asm.archive(asm.pickle(1), {}, {"a/holdfast.json": bytes(65 << 20)})
    error = refusal(asm, data)
    assert error.what == "refused: members other than storages are small"
    assert error.member == "a/holdfast.json"


@pytest.mark.parametrize("version", [b"0", b"11", b"", b"x", b"-1", b"999999999999999999999"])
def test_unknown_versions_get_a_letter(asm, version):
    data = zipped([("a/data.pkl", asm.pickle(1)), ("a/version", version)])
    with pytest.raises(FormatError, match="has a version that holdfast does not know") as caught:
        asm.look(data)
    assert caught.value.wanted == "1 to 10"


def test_a_missing_version_and_a_strange_byte_order_get_letters(asm):
    with pytest.raises(FormatError, match="does not say which version it is"):
        asm.look(zipped([("a/data.pkl", asm.pickle(1))]))
    members = [("a/data.pkl", asm.pickle(1)), ("a/version", b"3"), ("a/byteorder", b"middle")]
    with pytest.raises(FormatError, match="in which order its bytes are") as caught:
        asm.look(zipped(members))
    assert caught.value.found == "'middle'"


def test_a_flipped_byte_in_the_pickle_is_noticed_before_it_is_interpreted(asm, good):
    at = good.index(b"_rebuild_tensor_v2")
    with pytest.raises(DamagedError) as caught:
        asm.look(patched(good, at, b"X"))
    assert caught.value.what == "the pickle that says what the file holds is damaged"
    assert caught.value.member == "a/data.pkl"


def test_a_file_cut_off_anywhere_is_truncated(asm):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(40), "x": torch.ones(3)}, buffer)
    data = buffer.getvalue()
    for nbytes in range(4, len(data), 7):
        with pytest.raises(TruncatedError) as caught:
            asm.look(data[:nbytes])
        assert caught.value.what == "this zip archive has no end: the file ends too early"
