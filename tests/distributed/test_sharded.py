"""A run whose state is spread over the ranks: one folder, written by all, opened by everyone."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import shard_jobs as jobs
import torch
import torch.distributed.checkpoint as dcp
from ranks import Group
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import holdfast
from holdfast.errors import DamagedError, FormatError, NoCheckpointError

KINDS = [("fsdp", 2), ("fsdp", 3), ("tp", 2), ("hsdp", 4), ("2d", 4)]


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint of two ranks, and the values in it."""
    run = tmp_path_factory.mktemp("made") / "run"
    values = Group(2, jobs.save_with_run, str(run), "fsdp").values()
    return run / "step-00000000", values[0]


@pytest.fixture
def folder(made: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of it, in a run of its own."""
    return Path(shutil.copytree(made[0], tmp_path / "run" / made[0].name))


@pytest.mark.parametrize(("kind", "size"), KINDS)
@pytest.mark.parametrize("background", [True, False])
def test_saved_and_resumed(kind: str, size: int, background: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = Group(size, jobs.saved_and_resumed, str(run), kind, background).values()
    for before, after, left in said:
        assert_same(before, after)
        assert left == ()
    assert [path.name for path in run.iterdir() if path.name != ".lock"] == ["step-00000000"]


def test_what_is_written(made: tuple[Path, Any]) -> None:
    folder, values = made
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".metadata", "__0_0.distcp", "__1_0.distcp", "holdfast.json"]
    with holdfast.open(folder) as checkpoint:
        tree: Any = checkpoint.tree
        assert checkpoint.record is not None
        assert (checkpoint.record.step, checkpoint.record.metrics) == (0, {"loss": 0.5})
        names = checkpoint.record.parameters["optimizer"][0]
        assert names == [f"model.{name}" for name in dict(jobs.Net().named_parameters())]
        assert sorted(tree) == ["extra", "model", "optimizer", "ranks", "rng"]
        assert list(tree["optimizer"]["state"]) == [n.removeprefix("model.") for n in names]
        assert torch.equal(
            torch.as_tensor(checkpoint.array("model.up.weight")), values["up.weight"]
        )


@pytest.mark.parametrize(("kind", "size"), [("plain", 1), ("fsdp", 2), ("fsdp", 3), ("tp", 2)])
def test_torch_loads_it_into_any_arrangement(
    kind: str, size: int, made: tuple[Path, dict[str, Any]]
) -> None:
    """With torch.distributed.checkpoint, as its users do; strict, model and optimizer."""
    for values in Group(size, jobs.load_with_dcp, str(made[0]), kind).values():
        assert_same(values, made[1])


def test_torch_makes_a_file_of_it(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(made[0], tmp_path / "one.pt")
    tree = torch.load(tmp_path / "one.pt", weights_only=True)
    for name, value in jobs.Net().state_dict().items():
        assert torch.equal(tree["model"][name], made[1][name]), name
        assert tree["model"][name].shape == value.shape
    assert torch.equal(tree["optimizer"]["state"]["up.weight"]["exp_avg"], made[1]["1.exp_avg"])
    assert tree["optimizer"]["param_groups"][0]["lr"] == 0.01
    assert tree["extra"]["odd"][1] == "one"


def test_its_description_is_what_torch_says_of_the_same_state(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    """Entry by entry: names, element types, sizes, pieces, paths; places differ.

    torch has slices for pieces without elements, too.
    """
    Group(2, jobs.save_by_names_with_dcp, str(tmp_path / "theirs")).values()
    ours, theirs = (
        pickle.loads((path / ".metadata").read_bytes()) for path in (made[0], tmp_path / "theirs")
    )
    own = {"extra", "rng", "ranks"}
    entries = {n: e for n, e in ours.state_dict_metadata.items() if n not in own}
    for entry in theirs.state_dict_metadata.values():
        if hasattr(entry, "chunks"):
            entry.chunks = [chunk for chunk in entry.chunks if 0 not in chunk.sizes]
    assert entries == theirs.state_dict_metadata
    paths = {n: p for n, p in ours.planner_data.items() if n not in own}
    assert paths == theirs.planner_data
    pieces = {
        (name, chunk.offsets)
        for name, entry in theirs.state_dict_metadata.items()
        for chunk in getattr(entry, "chunks", [])
    }
    assert {(k.fqn, k.offset) for k in ours.storage_data if k.offset is not None} == pieces
    assert {k for k in theirs.storage_data if k.offset is None} <= set(ours.storage_data)
    assert ours.version == theirs.version


def test_copies_of_shares_are_written_once_and_by_all(tmp_path: Path) -> None:
    Group(4, jobs.save_large, str(tmp_path / "run")).values()
    folder = tmp_path / "run" / "step-00000000"
    sizes = [(folder / f"__{rank}_0.distcp").stat().st_size for rank in range(4)]
    weights = 2 * (1 << 20) * 4  # two of one MiB of float32, each halved over two ranks
    assert weights < sum(sizes) < 1.02 * weights
    assert max(sizes) < 1.1 * min(sizes)


@pytest.mark.parametrize("file", ["__0_0.distcp", "__1_0.distcp", ".metadata", "holdfast.json"])
def test_every_byte_is_known(file: str, folder: Path) -> None:
    """One byte in twenty is turned over: each is found, by verifying or in reading."""
    path = folder / file
    data = path.read_bytes()
    for at in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with contextlib.suppress(FormatError):  # refused while its headers were read
            assert holdfast.verify(folder).status == "damaged", at
    path.write_bytes(data)
    report = holdfast.verify(folder)
    assert report.status == "good"
    assert report.checked_nbytes > 0.98 * sum(each.stat().st_size for each in folder.iterdir())


def test_a_damaged_tensor_is_named(folder: Path) -> None:
    with holdfast.open(folder) as checkpoint:
        key = next(k for k, e in checkpoint.index.extents.items() if e.nbytes > 100)
        extent = checkpoint.index.extents[key]
    data = bytearray(Path(extent.file).read_bytes())
    data[extent.offset] ^= 1
    Path(extent.file).write_bytes(data)
    (damage,) = holdfast.verify(folder).damages
    assert damage.member.startswith("__")
    assert len(damage.tensors) == 1
    with pytest.raises(DamagedError, match="not those that were saved"):
        holdfast.load_state(folder, model=jobs.Net())


def test_a_file_of_another_save_is_found(folder: Path, tmp_path: Path) -> None:
    """Whole in itself, of the same names and sizes, with the values of another training."""
    Group(2, jobs.save_with_run, str(tmp_path / "other"), "tp").values()
    Group(2, jobs.save_twice, str(tmp_path / "twice")).values()
    first, second = (tmp_path / "twice" / f"step-0000000{n}" for n in (0, 1))
    assert (first / "__1_0.distcp").stat().st_size == (second / "__1_0.distcp").stat().st_size
    shutil.copy(first / "__1_0.distcp", second / "__1_0.distcp")
    assert holdfast.verify(first).status == "good"
    assert holdfast.verify(second).status == "damaged"
    shutil.copy(tmp_path / "other" / "step-00000000" / ".metadata", folder / ".metadata")
    with pytest.raises(FormatError):
        holdfast.open(folder)


def test_a_hostile_value_beside_a_clean_description_is_not_run(folder: Path) -> None:
    """torch unpickles values with everything allowed; here they go through the closed table."""

    class Harm:
        def __reduce__(self) -> Any:
            return (print, ("harm was done",))

    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (place,) = [info for key, info in metadata.storage_data.items() if key.fqn == "extra"]
    data = bytearray((folder / place.relative_path).read_bytes())
    payload = pickle.dumps(Harm(), 4)
    data[place.offset : place.offset + place.length] = payload.ljust(place.length, b"\0")
    (folder / place.relative_path).write_bytes(data)
    record = json.loads((folder / "holdfast.json").read_bytes())
    del record["crc32"], record["checksums"]  # as an attacker would
    (folder / "holdfast.json").write_text(json.dumps(record, indent=1))
    said = Group(2, jobs.resume_hostile, str(folder.parent)).values()
    for text, printed in said:
        assert "none of the checkpoints" in text
        assert printed == ""


def test_what_commands_see(folder: Path, tmp_path: Path) -> None:
    """show, list, verify, stats, diff, convert: as of any other checkpoint."""
    run = str(folder.parent)
    assert holdfast.verify(run).ok
    assert holdfast.diff(folder, folder).is_equal
    assert holdfast.stats(folder).ok
    listed = holdfast.Run(run).checkpoints()
    assert [(entry.step, entry.nbytes) for entry in listed] == [
        (0, sum(path.stat().st_size for path in folder.iterdir()))
    ]
    holdfast.convert(run, tmp_path / "a.safetensors", part="model")
    holdfast.convert(run, tmp_path / "a.pt")
    model = jobs.Net()
    holdfast.load_state(tmp_path / "a.pt", model=model)
    wanted, _ = jobs.make("plain")
    holdfast.load_state(folder, model=wanted)
    assert_same(dict(model.state_dict()), dict(wanted.state_dict()))


def test_old_folders_are_pruned(tmp_path: Path) -> None:
    said = Group(2, jobs.save_many, str(tmp_path / "run"), 5).values()
    assert said == [["step-00000003", "step-00000004"]] * 2
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == [".lock", "step-00000003", "step-00000004"]


def test_an_empty_folder_is_none(tmp_path: Path) -> None:
    """A folder of a dead writer is not taken for a checkpoint, and goes at the next start."""
    run = tmp_path / "run"
    Group(2, jobs.save_with_run, str(run), "fsdp").values()
    shutil.copytree(run / "step-00000000", run / ".step-00000001.0123abcd.tmp")
    Group(2, jobs.save_many, str(run), 2).values()
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "step-00000000", "step-00000001",
    ]  # fmt: skip
    with pytest.raises(NoCheckpointError):
        holdfast.open(run / "step-00000007")


def test_dcp_itself_sees_one_checkpoint(made: tuple[Path, Any]) -> None:
    reader = dcp.FileSystemReader(made[0])
    assert set(reader.read_metadata().state_dict_metadata) > {"model.up.weight", "rng"}


@pytest.mark.parametrize("background", [True, False])
def test_ranks_that_have_nothing_write_nothing(background: bool, tmp_path: Path) -> None:
    for is_same, files in Group(4, jobs.save_little, str(tmp_path / "run"), background).values():
        assert is_same
        assert files == [".metadata", "__0_0.distcp", "__1_0.distcp", "holdfast.json"]
