"""Folders of torch.distributed.checkpoint made to mislead: a letter for each, and nothing runs."""

from __future__ import annotations

import pickle
import pickletools
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.hostile.conftest import Assembler
from tests.unit.formats.dcp.conftest import save, state
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
)

from holdfast.errors import FormatError, HoldfastError, RefusedError, TruncatedError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.paths import tensors_by_storage
from holdfast.report.verify import verify_index
from holdfast.spec.index import Opaque
from holdfast.tensors.load import load_file

ASM = Assembler()
SIZE = torch.Size


@pytest.fixture
def folder(tmp_path):
    return save(state(), tmp_path / "ckpt")


def changed(folder: Path, change) -> None:
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def look(folder: Path):
    with open_source(folder) as source:
        return read_index(source)


def refusal(folder: Path, kind=RefusedError) -> HoldfastError:
    with pytest.raises(kind) as caught:
        look(folder)
    assert caught.value.file
    return caught.value


def info_of(metadata, name="model.weight"):
    return next(i for key, i in metadata.storage_data.items() if key.fqn == name)


def index_of(metadata, name="model.weight"):
    return next(key for key in metadata.storage_data if key.fqn == name)


# ---- pieces


@pytest.mark.parametrize(
    ("chunks", "rule"),
    [
        ([((0, 0), (2, 3))], "pieces tile their tensor without hole or overlap"),
        ([((0, 0), (4, 3))] * 2, "pieces tile their tensor without hole or overlap"),
        ([], "pieces tile their tensor without hole or overlap"),
        ([((1, 0), (4, 3))], "pieces lie inside their tensor"),
        ([((0, 0), (2**62, 2**62))], "pieces lie inside their tensor"),
        ([((0,), (4,))], "a piece has the axes of its tensor"),
        ([((0, 0), (2, 3)), ((2, 0), (2, 3))], "every piece of a tensor has a slice"),
    ],
)
def test_pieces_with_holes_overlaps_and_beyond(folder, chunks, rule):
    def change(metadata):
        metadata.state_dict_metadata["model.weight"].chunks = [
            ChunkStorageMetadata(SIZE(offsets), SIZE(sizes)) for offsets, sizes in chunks
        ]

    changed(folder, change)
    error = refusal(folder)
    assert error.what == f"refused: {rule}" or "holds the tensor" in error.what
    assert error.tensor == "model.weight"


def test_a_shape_that_the_slice_does_not_have(folder):
    def change(metadata):
        entry = metadata.state_dict_metadata["model.weight"]
        entry.size = SIZE((400, 3))
        entry.chunks[0].sizes = SIZE((400, 3))

    changed(folder, change)
    assert str(refusal(folder)) == (
        "refused: a slice holds the tensor that the folder's description says\n"
        f"  in {folder}, tensor 'model.weight'\n"
        "  wanted torch.float32 (400, 3), found torch.float32 (4, 3)\n"
        "  The folder is broken, or made to do harm: do not load it with anything else."
    )


def test_an_element_type_that_the_slice_does_not_have(folder):
    def change(metadata):
        metadata.state_dict_metadata["model.weight"].properties.dtype = torch.int32

    changed(folder, change)
    assert refusal(folder).wanted == "torch.int32 (4, 3)"


# ---- places


@pytest.mark.parametrize(
    "path", ["../outside.distcp", "/etc/hostname", "a/../../b", "", ".", "a\0b", "..\\b", "a//b"]
)
def test_paths_that_lead_out(folder, path):
    (folder.parent / "outside.distcp").write_bytes((folder / "__0_0.distcp").read_bytes())
    changed(folder, lambda metadata: setattr(info_of(metadata), "relative_path", path))
    assert refusal(folder).what == "refused: the files of a checkpoint folder lie in it"


def test_links_that_lead_out(folder):
    outside = folder.parent / "outside"
    (folder / "__0_0.distcp").rename(outside)
    (folder / "__0_0.distcp").symlink_to(outside)
    assert refusal(folder).what == "refused: the files of a checkpoint folder lie in it"


@pytest.mark.parametrize("name", ["model.weight", "step"])
@pytest.mark.parametrize(("offset", "length"), [(0, 2**62), (2**62, 10), (10**9, 10)])
def test_slices_beyond_the_end(folder, name, offset, length):
    def change(metadata):
        info_of(metadata, name).offset, info_of(metadata, name).length = offset, length

    changed(folder, change)
    refusal(folder, FormatError)


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, None, "0", True])
def test_offsets_that_are_none(folder, number):
    changed(folder, lambda metadata: setattr(info_of(metadata), "offset", number))
    assert refusal(folder).what == "refused: a slice has a file, an offset and a length"


def test_slices_that_overlap(folder):
    def change(metadata):
        one, other = info_of(metadata), info_of(metadata, "model.half")
        other.offset, other.length = one.offset, one.length

    changed(folder, change)
    assert refusal(folder).what == "refused: slices do not overlap"


def test_a_slice_inside_another_one(folder):
    inner = ASM.archive(ASM.pickle(5))
    outer = pickle.dumps(inner)
    path = folder / "__0_0.distcp"
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + outer)

    def change(metadata):
        info_of(metadata, "step").offset, info_of(metadata, "step").length = place, len(outer)
        info = info_of(metadata, "values.lr")
        info.offset, info.length = place + outer.index(inner), len(inner)

    changed(folder, change)
    error = refusal(folder)
    assert (error.what, error.tensor) == ("refused: slices do not overlap", "values.lr")


def test_a_slice_saved_twice_under_one_name(folder):
    def change(metadata):
        index = index_of(metadata)
        twin = MetadataIndex(index.fqn + "x", index.offset)
        metadata.storage_data[twin] = metadata.storage_data[index]
        object.__setattr__(twin, "fqn", index.fqn)

    changed(folder, change)
    assert refusal(folder).what == "refused: a piece is saved once"


def test_a_value_without_a_slice(folder):
    def change(metadata):
        metadata.state_dict_metadata["more"] = BytesStorageMetadata()

    changed(folder, change)
    assert refusal(folder).what == "refused: every value has a slice"


# ---- paths in the tree


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (("model", "deep", 10**12), "lists are about as long as what stands in them"),
        (("model", "deep", -1), "places in a list are numbers from 0 on"),
        (("model", "deep", "x"), "places in a list are numbers from 0 on"),
        (("model", "weight"), "two values do not stand at one place"),
        (("model", "weight", "x"), "paths lead through dicts and lists"),
        (("a",) * 300, "a tree is at most 200 levels deep"),
    ],
)
def test_paths_that_build_no_tree(folder, path, rule):
    changed(folder, lambda metadata: metadata.planner_data.update({"step": path}))
    error = refusal(folder)
    assert error.what == f"refused: {rule}"
    assert error.tensor == "step" or path == ("model", "weight")


# ---- what would run


def test_a_value_that_would_run_is_data_beside_clean_metadata(folder):
    """The slice names a function of a module that does not exist: who imports it would fail."""
    evil = ASM.archive(ASM.pickle(ASM.call(ASM.sym("holdfast_no_such", "run"), "x")))
    path = folder / "__0_0.distcp"
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + evil)

    def change(metadata):
        info_of(metadata, "step").offset, info_of(metadata, "step").length = place, len(evil)

    changed(folder, change)
    index = look(folder)
    assert index.symbols == ("holdfast_no_such.run",)
    assert isinstance(index.tree["step"], Opaque)
    with pytest.raises(HoldfastError, match="holdfast_no_such"):
        load_file(folder)


def test_a_plain_pickle_as_a_value_is_data_too(folder):
    evil = b"\x80\x02" + ASM.call(ASM.sym("holdfast_no_such", "run"), "x") + b"."
    path = folder / "__0_0.distcp"
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + evil)

    def change(metadata):
        info_of(metadata, "step").offset, info_of(metadata, "step").length = place, len(evil)

    changed(folder, change)
    assert look(folder).symbols == ("holdfast_no_such.run",)


def test_metadata_that_would_run(folder):
    path = folder / ".metadata"
    body = path.read_bytes()
    evil = b"choldfast_no_such\nrun\n)R0"
    at = 2 if body[2:3] != b"\x95" else 11  # behind the frame's length
    path.write_bytes(body[:2] + evil + body[at:])
    index = look(folder)
    assert index.symbols == ("holdfast_no_such.run",)
    with pytest.raises(HoldfastError, match="holdfast_no_such"):
        load_file(folder)


@pytest.mark.parametrize("obj", [None, 1, {}, [], "text", {"state_dict_metadata": {}}], ids=repr)
def test_metadata_that_is_none(folder, obj):
    (folder / ".metadata").write_bytes(pickle.dumps(obj))
    refusal(folder)


# ---- size


def test_a_million_entries_take_no_more_than_linear_time(folder):
    def entries(metadata, count):
        # One record, named over and over: as small as such a pickle gets.
        value = BytesStorageMetadata()
        metadata.state_dict_metadata = {f"v{i}": value for i in range(count)}

    changed(folder, lambda metadata: entries(metadata, 1_000_001))
    begun = time.process_time()
    assert refusal(folder).what == (
        "refused: a checkpoint has at most 1,000,000 entries in 10,000,000 pieces"
    )
    assert time.process_time() - begun < 60


# ---- broken bytes


def survive(folder: Path) -> None:
    letter = ""
    try:
        with open_source(folder) as source:
            index = read_index(source)
            tensors_by_storage(index.tree)
            verify_index(index, source)
        load_file(folder, opaque="keep")
    except HoldfastError as error:
        letter = str(error)
    assert len(letter) < 20_000


def test_files_cut_short_anywhere(folder):
    for name in (".metadata", "__0_0.distcp"):
        path = folder / name
        whole = path.read_bytes()
        for stop in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:stop])
            with pytest.raises(FormatError):
                look(folder)
        path.write_bytes(whole)
    look(folder)


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    folder = save({"a": torch.ones(3), "b": 5}, tmp_path_factory.mktemp("dcp") / "ckpt")
    return folder, {name: (folder / name).read_bytes() for name in (".metadata", "__0_0.distcp")}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_changed_bytes(victim, data):
    folder, files = victim
    name = data.draw(st.sampled_from([".metadata", "__0_0.distcp"]))
    changed_bytes = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed_bytes) - 1))
        changed_bytes[at] = data.draw(st.integers(0, 255))
    try:
        (folder / name).write_bytes(changed_bytes)
        survive(folder)
    finally:
        (folder / name).write_bytes(files[name])


def test_every_record_is_one_of_torch(folder):
    """A class of the same name in another module is none of them."""
    path = folder / ".metadata"
    body = path.read_bytes()
    name = b"torch.distributed.checkpoint.metadata"
    assert any(arg == name.decode() for _, arg, _ in pickletools.genops(body))
    path.write_bytes(body.replace(name, b"torch.distributed.checkpoint.metabase"))
    error = refusal(folder)
    assert error.what == "refused: the description of a folder is made of torch's records"


def test_a_file_cut_short_says_so(folder):
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:5000])
    refusal(folder, TruncatedError)
