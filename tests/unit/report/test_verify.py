from __future__ import annotations

import io
import json

import pytest
import torch
from torch.serialization import get_crc32_options, set_crc32_options

import holdfast
from holdfast.errors import DamagedError, TruncatedError
from holdfast.formats import read_index
from holdfast.io import reading
from holdfast.io.checksum import CHUNK
from holdfast.io.source import open_source
from holdfast.report.verify import Damage, VerifyReport, verified_nbytes, verify_index


def saved() -> bytes:
    buffer = io.BytesIO()
    base = torch.arange(50.0)
    tree = {"model": {"weight": base, "tied": base[:3]}, "x": [torch.ones(5_000_000).to_sparse()]}
    torch.save(tree, buffer)
    return buffer.getvalue()


def check(data: bytes, **options) -> VerifyReport:
    with open_source(io.BytesIO(data)) as source:
        return verify_index(read_index(source), source, **options)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_whole_file_is_good_and_every_byte_of_it_was_read():
    data = saved()
    told = []
    report = check(data, on_progress=told.append)
    assert (report.status, report.ok, report.damages) == ("good", True, ())
    with open_source(io.BytesIO(data)) as source:
        index = read_index(source)
    nbytes = sum(extent.nbytes for extent in (*index.extents.values(), *index.other))
    assert report.checked_nbytes == nbytes == sum(told)
    chunks = [-(-extent.nbytes // CHUNK) for extent in (*index.extents.values(), *index.other)]
    assert len(told) == sum(chunks)
    assert len(told) > 30  # in chunks
    assert max(told) == CHUNK
    assert report.to_text() == f"<BytesIO>: good ({report.members} members, {nbytes:,} bytes)"


def test_each_member_is_checked():
    data = saved()
    with open_source(io.BytesIO(data)) as source:
        index = read_index(source)
    members = [e for e in (*index.extents.values(), *index.other) if e.nbytes]
    checked = [e for e in members if not e.member.endswith(("data.pkl", "version", "byteorder"))]
    assert {e.member for e in checked} >= {"archive/data/0", "archive/.data/serialization_id"}
    for extent in checked:
        for at in (extent.offset, extent.offset + extent.nbytes - 1):
            report = check(flipped(data, at))
            assert [damage.member for damage in report.damages] == [extent.member]


def test_a_damaged_file_names_member_and_tensors():
    data = saved()
    with open_source(io.BytesIO(data)) as source:
        index = read_index(source)
    first, indices = index.extents["0"], index.extents["1"]
    report = check(flipped(flipped(data, first.offset + 5), indices.offset))
    assert report.status == "damaged"
    assert not report.ok
    assert [(d.member, d.tensors) for d in report.damages] == [
        ("archive/data/0", ("model.weight", "model.tied")),
        ("archive/data/1", ("x.0",)),
    ]
    assert report.damages[0].expected_crc == first.expected_crc
    assert report.to_text().splitlines() == [
        f"<BytesIO>: damaged (2 of {report.members} members)",
        "  archive/data/0 (model.weight, model.tied): "
        f"CRC {report.damages[0].found_crc:08x}, saved as {first.expected_crc:08x}",
        "  archive/data/1 (x.0): "
        f"CRC {report.damages[1].found_crc:08x}, saved as {indices.expected_crc:08x}",
    ]


def test_a_file_without_checksums_is_unknown():
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        data = saved()
    finally:
        set_crc32_options(before)
    report = check(data)
    assert (report.status, report.ok, report.checked_nbytes) == ("unknown", True, 0)
    count = report.members
    assert report.to_text() == (
        f"<BytesIO>: unknown: {count} of {count} members were saved without a checksum "
        "(torch was told to compute none: torch.serialization.set_crc32_options)"
    )


def test_the_json_has_stable_keys():
    damage = Damage("a/data/0", ("w",), 0xAB, 0xFFFFFFFF)
    report = VerifyReport("f.pt", "damaged", (damage,), 12, 3)
    assert json.loads(json.dumps(report.to_json())) == {
        "file": "f.pt",
        "status": "damaged",
        "damages": [
            {
                "member": "a/data/0",
                "tensors": ["w"],
                "expected_crc": "000000ab",
                "found_crc": "ffffffff",
            }
        ],
        "checked_nbytes": 12,
        "members": 3,
        "unknown_members": 0,
        "unknown": [],
        "why": None,
    }


def test_many_tensors_of_one_storage_are_counted():
    damage = Damage("a/data/0", tuple("abcde"), 1, 2)
    report = VerifyReport("f.pt", "damaged", (damage,), 12, 3)
    assert "(a, b, c and 2 more)" in report.to_text()


@pytest.mark.parametrize("nbytes", [0, 1, 200])
def test_a_file_that_shrinks_meanwhile_is_truncated(tmp_path, nbytes):
    path = tmp_path / "a.pt"
    path.write_bytes(saved())
    with open_source(path) as source:
        index = read_index(source)
        with path.open("r+b") as file:
            file.truncate(nbytes)
        with pytest.raises(TruncatedError):
            verify_index(index, source)


@pytest.mark.parametrize("threads", [1, 3])
def test_large_members_are_checked_in_ranges(monkeypatch, threads):
    monkeypatch.setattr(reading, "RANGE", 1_000_000)
    monkeypatch.setattr(reading, "_THREADS", threads)
    data = saved()
    told = []
    report = check(data, on_progress=told.append)
    assert (report.status, report.checked_nbytes) == ("good", sum(told))
    with open_source(io.BytesIO(data)) as source:
        indices = read_index(source).extents["1"]
    for at in (0, 999_999, 1_000_000, indices.nbytes - 1):
        [damage] = check(flipped(data, indices.offset + at)).damages
        assert damage.member == indices.member
        assert damage.found_crc != damage.expected_crc


def test_a_file_that_shrinks_while_threads_read_it_is_truncated(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RANGE", 1_000_000)
    path = tmp_path / "a.pt"
    path.write_bytes(saved())
    with open_source(path) as source:
        index = read_index(source)
        with path.open("r+b") as file:
            file.truncate(5000)
        with pytest.raises(TruncatedError):
            verify_index(index, source)


def test_legacy_files_are_unknown_and_say_why():
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    report = check(buffer.getvalue())
    assert (report.status, report.ok) == ("unknown", True)
    assert report.to_text().endswith("(files of torch before 1.6 have none)")


def test_deflated_members_are_checked_by_what_they_unpack_to():
    buffer = io.BytesIO()
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(module, buffer)
    data = buffer.getvalue()
    assert check(data).status == "good"
    with open_source(io.BytesIO(data)) as source:
        extents = [e for e in read_index(source).other if e.is_deflated]
    assert extents
    [damage] = check(flipped(data, extents[0].offset + extents[0].nbytes // 2)).damages
    assert damage.member == extents[0].member


def test_pain_22_a_flipped_byte_that_torch_loads_silently_is_named(tmp_path):
    """The CRC is written and never checked (pytorch #126952)."""
    path = tmp_path / "a.pt"
    torch.save({"model": {"weight": torch.arange(8.0), "bias": torch.zeros(2)}}, path)
    with open_source(path) as source:
        weight = read_index(source).extents["0"]
    path.write_bytes(flipped(path.read_bytes(), weight.offset + 7))
    for is_mapped in (False, True):
        silently = torch.load(path, weights_only=True, mmap=is_mapped)["model"]["weight"]
        assert not torch.equal(silently, torch.arange(8.0))
    report = holdfast.verify(path)
    assert [damage.tensors for damage in report.damages] == [("model.weight",)]
    with pytest.raises(DamagedError) as caught:
        holdfast.load(path)
    assert caught.value.tensor == "model.weight"
    with holdfast.open(path) as checkpoint, pytest.raises(DamagedError, match=r"model\.weight"):
        checkpoint.array("model.weight")


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_several_processes_share_the_work(count):
    """Each byte is read by one of them, and each reads about as much as the others."""
    data = io.BytesIO()
    torch.save([torch.zeros(997 * n) for n in range(1, 20)], data)
    source = open_source(io.BytesIO(data.getvalue()))
    index = read_index(source)
    whole = verify_index(index, source).checked_nbytes
    parts = [verify_index(index, source, share=(n, count)).checked_nbytes for n in range(count)]
    assert sum(parts) == whole
    assert parts == [verified_nbytes(index, share=(n, count)) for n in range(count)]
    assert max(parts) <= whole / count + 997 * 19 * 4


def test_damage_is_found_by_the_one_whose_share_it_is_in():
    data = saved()
    with open_source(io.BytesIO(data)) as source:
        place = next(iter(read_index(source).extents.values())).offset
    source = open_source(io.BytesIO(flipped(data, place)))
    index = read_index(source)
    said = [verify_index(index, source, share=(number, 3)).status for number in range(3)]
    assert sorted(said) == ["damaged", "good", "good"]
