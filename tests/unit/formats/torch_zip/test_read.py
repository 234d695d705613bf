from __future__ import annotations

import fractions
import io
import zipfile

import pytest
import torch
from torch.serialization import get_crc32_options, set_crc32_options

from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.spec import record as records
from holdfast.spec.index import Opaque, TensorRef
from holdfast.spec.record import Record


def index_of(data: bytes, **options):
    with open_source(io.BytesIO(data)) as source:
        return read_index(source, **options)


def saved(obj, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def repacked(data: bytes, *, drop=(), add=None, root="archive") -> bytes:
    """The same archive as other zip programs write it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            if name not in drop:
                new.writestr(f"{root}/{name}", old.read(info))
        for name, content in (add or {}).items():
            new.writestr(name, content)
    return buffer.getvalue()


def test_extents_say_where_the_bytes_of_each_storage_are():
    weight = torch.arange(10.0)
    data = saved({"weight": weight, "view": weight[2:4], "bias": torch.ones(3, dtype=torch.int8)})
    index = index_of(data)
    assert index.format == "torch_zip"
    assert index.byteorder == "little"
    assert index.file_nbytes == len(data)
    assert list(index.extents) == ["0", "1"]
    extent = index.extents["0"]
    assert data[extent.offset : extent.offset + extent.nbytes] == weight.numpy().tobytes()
    assert extent.offset % 64 == 0
    assert extent.member == "archive/data/0"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        crcs = {info.filename: info.CRC for info in archive.infolist()}
    everything = [*index.extents.values(), *index.other]
    assert {extent.member: extent.expected_crc for extent in everything} == crcs
    view = index.tree["view"]
    assert isinstance(view, TensorRef)
    assert (view.shape, view.stride, view.offset) == ((2,), (1,), 2)
    assert view.storage is index.tree["weight"].storage


def test_a_file_without_checksums_is_unknown_and_not_damaged():
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        data = saved({"a": torch.ones(3), "b": torch.zeros(0)})
    finally:
        set_crc32_options(before)
    index = index_of(data)
    assert {e.expected_crc for e in (*index.extents.values(), *index.other)} == {None}


def test_the_record_is_read_from_its_member():
    record = Record(id="abc", step=3, metrics={"loss": 0.5})
    data = repacked(saved([1]), add={"archive/holdfast.json": records.encode(record)})
    assert index_of(data).record == record
    assert index_of(saved([1])).record is None


def test_a_damaged_record_is_a_note_as_the_tensors_may_be_whole():
    data = repacked(saved([1]), add={"archive/holdfast.json": records.encode(Record(id="abc"))})
    at = data.index(b'"abc"') + 1
    index = index_of(data[:at] + b"x" + data[at + 1 :])
    assert index.record is None
    assert index.tree == [1]
    assert index.notes == ("the record archive/holdfast.json is damaged",)
    foreign = repacked(saved([1]), add={"archive/holdfast.json": b"{}"})
    assert index_of(foreign).notes == (
        "the record of this checkpoint cannot be read: JSON without the key 'holdfast'",
    )


def test_files_of_older_torch_versions_lack_some_members():
    tensor = torch.arange(3.0)
    full = saved({"a": tensor})
    small = (".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
    for drop, add in (
        (small, None),
        ((*small, "version"), {"archive/.data/version": b"2\n"}),
        ((), None),
    ):
        index = index_of(repacked(full, drop=drop, add=add))
        assert index.byteorder == "little"
        assert index.tree["a"].shape == (3,)


@pytest.mark.parametrize("version", range(1, 11))
def test_versions_one_to_ten_are_read(version):
    data = repacked(saved([1]), drop=["version"], add={"archive/version": b"%d\n" % version})
    assert index_of(data).tree == [1]


def test_an_archive_repacked_with_folder_entries_is_read():
    data = saved({"a": torch.ones(2)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        new.writestr("model/", b"")
        new.writestr("model/data/", b"")
        for info in old.infolist():
            new.writestr("model/" + info.filename.partition("/")[2], old.read(info))
    assert index_of(buffer.getvalue()).tree["a"].shape == (2,)


def test_the_root_is_that_of_the_file_name(tmp_path):
    path = tmp_path / "模型_最好.pt"
    torch.save([1], path)
    with open_source(path) as source:
        assert read_index(source).tree == [1]
    data = repacked(saved([torch.ones(1)]), root="模型")
    assert index_of(data).extents["0"].member == "模型/data/0"


def test_storages_nobody_uses_are_noted_and_still_verified():
    data = repacked(saved([torch.ones(1)]), add={"archive/data/9": b"extra"})
    index = index_of(data)
    assert index.notes == ("no tensor uses 1 of the storages, such as archive/data/9",)
    assert "archive/data/9" in [extent.member for extent in index.other]


def test_symbols_outside_the_table_are_listed_once_in_order():
    data = saved([fractions.Fraction(1, 2), fractions.Fraction(3), slice(1)])
    index = index_of(data)
    assert index.symbols == ("fractions.Fraction", "builtins.slice")
    assert all(isinstance(node, Opaque) for node in index.tree)


def test_python_2_text_is_decoded_as_asked():
    pickle = b"\x80\x02}U\x03\xe9\xe8\xe0K\x01s."
    data = repacked(saved([1]), drop=["data.pkl"])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        rest = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"archive/data.pkl": pickle, **rest}.items():
            archive.writestr(name, content)
    data = buffer.getvalue()
    assert index_of(data, encoding="latin1").tree == {"éèà": 1}
    assert index_of(data, encoding="bytes").tree == {b"\xe9\xe8\xe0": 1}
    with pytest.raises(Exception, match='try encoding="latin1"'):
        index_of(data)
