"""What was saved in one arrangement is loaded into any other, value by value."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import shard_jobs as jobs
import torch
from described import written_otherwise
from ranks import Group

import holdfast

#: What saves, by torch.distributed.checkpoint and by a run, and what loads each of these.
SAVED = [
    *(("plain", 1), ("ddp", 2), ("fsdp", 2), ("fsdp", 3), ("fsdp", 4)),
    *(("tp", 2), ("hsdp", 4), ("2d", 4)),
]
LOADED = [*SAVED, ("tp", 3), ("tp", 4)]


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model, optimizer = jobs.make("plain")
    jobs.one_step("plain", model, optimizer)
    return model, optimizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same state in a file of one process, and in folders of several."""
    folder = tmp_path_factory.mktemp("saved")
    model, optimizer = trained()
    holdfast.save_state(folder / "one.pt", model=model, optimizer=optimizer)
    for kind, size in SAVED:
        Group(size, jobs.save_with_dcp, str(folder / f"{kind}{size}"), kind).values()
        Group(size, jobs.save_with_run, str(folder / f"run-{kind}{size}"), kind).values()
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("kind", "size"), LOADED)
def test_any_arrangement_into_any_other(kind: str, size: int, saved: dict[str, Path]) -> None:
    model, optimizer = trained()
    wanted = jobs.state(model, optimizer)
    jobs.one_step("plain", model, optimizer)
    after = jobs.state(model, optimizer)
    paths = [str(path) for path in saved.values()]
    for said in Group(size, jobs.load, paths, kind).values():
        for name, each in zip(saved, said, strict=True):
            assert_same(each["loaded"], wanted)
            assert_same(each["stepped"], after)
            expected = "Tensor" if kind in ("plain", "ddp") else "DTensor"
            assert each["kinds"]["exp_avg"] == expected, name
            assert each["left"] == ()


@pytest.mark.parametrize(("kind", "size"), [("fsdp", 2), ("fsdp", 3), ("tp", 4), ("ddp", 2)])
def test_a_run_goes_on_in_any_other(
    kind: str, size: int, saved: dict[str, Path], tmp_path: Path
) -> None:
    """Headers are shared among the ranks then; also where one piece is written otherwise."""
    wanted = jobs.state(*trained())
    runs = [path for name, path in saved.items() if name.startswith("run-")]
    odd = shutil.copytree(saved["run-fsdp3"], tmp_path / "odd")
    written_otherwise(odd / "step-00000000", "__1_0.distcp")
    paths = [str(path) for path in (*runs, odd)]
    for said in Group(size, jobs.resume_each, paths, kind).values():
        for each in said:
            assert_same(each, wanted)


def test_ranks_that_find_different_damage_fall_back_together(tmp_path: Path) -> None:
    """One finds other headers, which all look at then; another a file that is too short."""
    Group(3, jobs.save_three, str(tmp_path / "run")).values()
    wanted = tmp_path / "run" / "step-00000001"
    newest = tmp_path / "run" / "step-00000002"
    data = bytearray((newest / "__1_0.distcp").read_bytes())
    data[40] ^= 1
    (newest / "__1_0.distcp").write_bytes(data)
    os.truncate(newest / "__2_0.distcp", 100)
    for said in Group(3, jobs.resumed_step, str(tmp_path / "run")).values():
        assert said == str(wanted)


@pytest.mark.parametrize("way", ["rows", "columns", "copies"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("source", ["file", "folder"])
def test_each_rank_reads_what_it_needs(
    way: str, dtype: torch.dtype, source: str, tmp_path: Path
) -> None:
    """Of a file that has the tensor whole, and of a folder of two ranks; a tenth more at most."""
    weight = torch.arange(1031.0 * 6144).reshape(1031, 6144).to(dtype)
    if source == "file":
        holdfast.save_state(tmp_path / "a", model=_Holder(weight))
    else:
        Group(2, jobs.save_rows, str(tmp_path / "a"), dtype).values()
    said = Group(3, jobs.bytes_read, str(tmp_path / "a"), way, dtype).values()
    for read, needed, is_right in said:
        assert is_right
        assert needed <= read <= 1.1 * needed
    assert sum(needed for _, needed, _ in said) == weight.nbytes * (3 if way == "copies" else 1)


class _Holder(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model, _ = jobs.make("plain")
    torch.save({"model": {**model.state_dict(), "up.weight": torch.ones(3, 3)}}, tmp_path / "a.pt")
    for text in Group(2, jobs.refused, str(tmp_path / "a.pt")).values():
        assert "up.weight" in text
        assert "(14, 6)" in text


def test_a_file_of_one_process_does_not_take_shares(tmp_path: Path) -> None:
    for text in Group(2, jobs.refused_as_a_file, str(tmp_path)).values():
        assert text.startswith("a tensor that is spread over processes, at 'model.")
        assert "A Run on all ranks saves it" in text
    assert list(tmp_path.iterdir()) == []


def test_what_one_process_has_whole_is_saved(tmp_path: Path) -> None:
    """fully_shard on one process is a model like any other."""
    job = jobs.saved_and_resumed
    ((before, after, _),) = Group(1, job, str(tmp_path / "run"), "fsdp", False).values()
    assert_same(before, after)
    tree = torch.load(tmp_path / "run" / "step-00000000.pt", weights_only=True)
    assert type(tree["model"]["up.weight"]) is torch.Tensor
    assert torch.equal(tree["model"]["up.weight"], before["up.weight"])


def test_shares_without_memory_are_not_filled_into_nothing(tmp_path: Path) -> None:
    model, _ = jobs.make("plain")
    torch.save({"model": model.state_dict()}, tmp_path / "a.pt")
    for text in Group(2, jobs.without_memory, str(tmp_path / "a.pt")).values():
        assert "have no memory yet" in text
        assert "model.to_empty(device=...)" in text


def test_pain_17_nothing_goes_onto_gpu_0_because_it_was_there(tmp_path: Path) -> None:
    """pytorch #23138: every rank loaded onto the GPU that the file names."""
    model, optimizer = trained()
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer)
    tree = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(tree, tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in members if name.endswith("data.pkl")]
    place = b"X\x03\x00\x00\x00cpu"
    assert place in members[name]
    members[name] = members[name].replace(place, b"X\x06\x00\x00\x00cuda:0")
    with zipfile.ZipFile(tmp_path / "gpu.pt", "w", zipfile.ZIP_STORED) as archive:
        for each, payload in members.items():
            archive.writestr(each, payload)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "gpu.pt", weights_only=True)
    for found in Group(2, jobs.load_what_was_on_a_gpu, str(tmp_path / "gpu.pt")).values():
        assert found == ["cpu"]
