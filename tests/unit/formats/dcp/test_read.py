from __future__ import annotations

import fractions
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.formats.dcp.conftest import save, state
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import holdfast
from holdfast.errors import DamagedError, FormatError, UntrustedError
from holdfast.formats import read_index
from holdfast.formats.dcp import slices
from holdfast.io.source import open_source
from holdfast.runs.reading import read_headers
from holdfast.spec import record as records
from holdfast.spec.index import ChunkedRef, Opaque, TensorRef
from holdfast.spec.record import Record


def as_torch_reads(folder: Path):
    whole = folder.with_suffix(".whole")
    dcp_to_torch_save(folder, whole)
    return torch.load(whole, weights_only=False)


def same(found, wanted) -> bool:
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return list(found) == list(wanted) and all(same(found[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return type(found) is type(wanted) and found == wanted


@pytest.mark.parametrize(
    "options",
    [{}, {"single_file_per_rank": False}, {"thread_count": 3}, {"sync_files": False}],
    ids=str,
)
def test_a_folder_loads_as_torch_converts_it(tmp_path, options):
    folder = save(state(), tmp_path / "ckpt", **options)
    assert same(holdfast.load(folder), as_torch_reads(folder))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_what_several_processes_saved_is_whole_again(tmp_path, world):
    folder = tmp_path / "ckpt"
    ranks = [
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name("ranks.py"), str(rank), str(world), folder]
        )
        for rank in range(world)
    ]
    assert [rank.wait(120) for rank in ranks] == [0] * world
    found = holdfast.load(folder)
    assert same(found, as_torch_reads(folder))
    whole = torch.arange(35.0).reshape(7, 5)
    assert torch.equal(found["model"]["rows"], whole)
    with holdfast.open(folder) as checkpoint:
        rows, plain = (checkpoint.tree["model"][name] for name in ("rows", "everywhere"))
        assert isinstance(rows, ChunkedRef)
        assert len(rows.chunks) == world
        assert isinstance(plain, TensorRef)
        assert np.array_equal(checkpoint.array("model.rows"), whole.numpy())
        assert torch.equal(checkpoint.tensor("model.columns"), whole.to(torch.bfloat16))
        assert checkpoint.verify().ok


def test_safetensors_in_the_files_is_read_though_torch_cannot(tmp_path):
    # torch writes .metadata for them, but its own reader then takes them for torch files.
    wanted = {"a": torch.arange(6.0).reshape(2, 3), "b": {"c": torch.ones(2)}, "step": 5}
    folder = save(wanted, tmp_path / "ckpt", serialization_format=SerializationFormat.SAFETENSORS)
    assert same(holdfast.load(folder), {"a": wanted["a"], "b": wanted["b"], "step": 5})


def test_names_are_those_of_the_nested_state(folder):
    with holdfast.open(folder) as checkpoint:
        assert checkpoint.names() == [
            *("model.weight", "model.half", "model.scalar", "model.empty", "model.deep.0"),
            *("model.deep.2.x", "optimizer.state.0.exp_avg"),
        ]
        assert checkpoint.index.format == "dcp"
        assert checkpoint.index.symbols == ()
        assert checkpoint.index.notes == ()


def test_verify_names_the_tensors_of_damaged_bytes(folder):
    with holdfast.open(folder) as checkpoint:
        report = checkpoint.verify()
        # Only .metadata itself carries no checksum.
        assert (report.status, report.unknown) == ("unknown", (".metadata",))
        assert (
            "(what holds the tensors' places, and pickles among the data, have none): .metadata"
            in (report.to_text())
        )
        ref = checkpoint.tree["model"]["weight"]
        extent = checkpoint.index.extents[ref.storage.key]
    with Path(extent.file).open("r+b") as file:
        file.seek(extent.offset)
        file.write(b"\xff")
    with holdfast.open(folder) as checkpoint:
        report = checkpoint.verify()
        assert report.status == "damaged"
        assert [damage.tensors for damage in report.damages] == [("model.weight",)]
        assert report.damages[0].member.startswith("__0_0.distcp@")
        with pytest.raises(holdfast.errors.DamagedError):
            checkpoint.array("model.weight")
        assert checkpoint.array("model.half").shape == (5,)


def test_objects_of_other_classes_stay_data_and_are_named(tmp_path):
    folder = save({"a": torch.ones(1), "odd": fractions.Fraction(1, 2)}, tmp_path / "ckpt")
    with holdfast.open(folder) as checkpoint:
        assert isinstance(checkpoint.tree["odd"], Opaque)
        assert checkpoint.index.symbols == ("fractions.Fraction",)
    with pytest.raises(UntrustedError, match="fractions"):
        holdfast.load(folder)
    assert holdfast.load(folder, trust=[fractions.Fraction])["odd"] == fractions.Fraction(1, 2)


def test_a_state_without_paths_is_flat(tmp_path):
    folder = save({"a.b": torch.ones(1)}, tmp_path / "ckpt")
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    metadata.planner_data = None
    path.write_bytes(pickle.dumps(metadata))
    assert list(holdfast.load(folder)) == ["a.b"]


def test_the_record_of_a_folder_and_all_of_its_tree(folder):
    (folder / "holdfast.json").write_bytes(records.encode(Record(id="abc", step=4)))
    with holdfast.open(folder) as checkpoint:
        assert checkpoint.record == Record(id="abc", step=4)
    index = read_headers(folder)
    assert index.record.id == "abc"
    assert index.tree["step"] == 3


def test_more_files_than_a_process_may_open(tmp_path):
    wanted = {f"t{i}": torch.full((2,), float(i)) for i in range(300)}
    folder = save(wanted, tmp_path / "ckpt", single_file_per_rank=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
    try:
        assert same(holdfast.load(folder), wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_of_very_many_files_that_changes_meanwhile_is_noticed(tmp_path):
    wanted = {f"t{i}": torch.full((2,), float(i)) for i in range(150)}
    folder = save(wanted, tmp_path / "ckpt", single_file_per_rank=False)
    with holdfast.open(folder) as checkpoint:
        for path in folder.glob("*.distcp"):
            os.utime(path, ns=(1, 1))
        with pytest.raises(DamagedError, match="changed while it was read"):
            list(map(checkpoint.array, checkpoint.names()))


# ---- letters


def letter(folder) -> str:
    with open_source(folder) as source, pytest.raises(FormatError) as caught:
        read_index(source)
    return str(caught.value)


def test_a_save_that_was_never_finished(folder):
    (folder / ".metadata").unlink()
    with pytest.raises(FormatError, match="never finished"):  # and is not taken for a run
        holdfast.open(folder)
    assert letter(folder) == (
        "this save was never finished: no file says what the others hold\n"
        f"  in {folder}\n"
        "  wanted .metadata, found __0_0.distcp\n"
        "  Use an earlier checkpoint: torch writes that file last of all."
    )


def test_shares_that_nobody_put_together(folder):
    (folder / ".metadata").rename(folder / "__0.metadata")
    assert letter(folder).startswith(
        "each process described its own share of this checkpoint, and nobody the whole\n"
    )


def test_a_missing_file(folder):
    (folder / "__0_0.distcp").unlink()
    assert letter(folder) == (
        "a file of this checkpoint is missing\n"
        f"  in {folder}, member '__0_0.distcp'\n"
        "  Copy the folder again, whole: what other files hold can be read without it."
    )


def test_a_file_cut_short(folder):
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-700])
    assert letter(folder).startswith(f"this file ends too early\n  in {path}, tensor '")


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    assert letter(tmp_path).startswith("this folder is no checkpoint\n")


def test_transformed_slices(folder):
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["zstd"]
    path.write_bytes(pickle.dumps(metadata))
    assert letter(folder).startswith(
        "this checkpoint was written through extensions, and its slices are transformed\n"
    )


def test_a_slice_of_ours_is_known_by_its_bytes(tmp_path, monkeypatch):
    """What is known without reading its headers is what they say; other bytes are read as ever."""
    tree = {
        "w": torch.arange(3000.0).reshape(30, 100), "s": torch.tensor(7), "e": torch.zeros(0, 2),
        "h": torch.ones(5, dtype=torch.bfloat16), "f": torch.ones(3).to(torch.float8_e5m2),
    }  # fmt: skip
    torch.save(tree, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")

    def seen():
        with open_source(tmp_path / "a.dcp") as source:
            index = read_index(source)
        refs = {n: (r.dtype, r.shape, r.stride, r.offset, r.storage) for n, r in index.tree.items()}
        return refs, index.extents

    known = seen()
    monkeypatch.setattr(slices._Reader, "_own", lambda *_: False)
    read = seen()
    assert known[0] == read[0]
    assert known[1] == {key: extent for key, extent in read[1].items() if key in known[1]}
    assert known[1].keys() == read[1].keys()


@pytest.mark.parametrize("place", ["head", "tail"])
def test_a_slice_that_is_not_quite_ours_is_read(place, tmp_path):
    """Of the same size, with other values in its headers: they are what counts."""
    torch.save({"w": torch.arange(12.0).reshape(3, 4)}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")
    file = tmp_path / "a.dcp" / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    at = data.find(b"data.pkl") if place == "head" else data.rfind(b"archive/version")
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(FormatError), open_source(tmp_path / "a.dcp") as source:
        read_index(source)
