from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import holdfast
from holdfast.errors import FormatError, HoldfastError, NotACheckpointError, RefusedError
from holdfast.formats import read_index, sharded
from holdfast.io.source import open_source
from holdfast.spec.index import Index
from holdfast.tensors.load import load_file

TENSORS = {f"layer.{i}.weight": torch.randn(3, 4) for i in range(5)}
SAFE, TORCH = sharded.KNOWN


def save_torch(tensors, path) -> None:
    torch.save(tensors, path)


def save_legacy(tensors, path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


SAVERS = {
    "safetensors_sharded": (SAFE, "model-0000{}-of-00002.safetensors", safetensors.torch.save_file),
    "torch_sharded": (TORCH, "pytorch_model-0000{}-of-00002.bin", save_torch),
    "legacy": (TORCH, "pytorch_model-0000{}-of-00002.bin", save_legacy),
}


def write(folder: Path, kind: str = "safetensors_sharded", **changed: object) -> Path:
    """A folder with the tensors in two files, and their listing; ``changed`` replaces places."""
    listing, name, save = SAVERS[kind]
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for n in (1, 2):
        part = {k: t for i, (k, t) in enumerate(TENSORS.items()) if i % 2 == n - 1}
        save(part, folder / name.format(n))
        weight_map.update(dict.fromkeys(part, name.format(n)))
    weight_map = {key: weight_map[key] for key in TENSORS} | changed
    text = json.dumps({"metadata": {"total_size": 240, "of": "me"}, "weight_map": weight_map})
    (folder / listing).write_text(text)
    return folder


def look(path: Path) -> Index:
    with open_source(path) as source:
        return read_index(source)


@pytest.mark.parametrize("kind", SAVERS)
def test_all_tensors_come_in_the_order_of_the_listing(kind, tmp_path):
    folder = write(tmp_path / "m", kind)
    loaded = load_file(folder)
    assert list(loaded) == list(TENSORS)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    index = look(folder)
    assert index.format == ("safetensors_sharded" if "safe" in kind else "torch_sharded")
    assert (index.file, dict(index.metadata)) == (str(folder), {"total_size": "240", "of": "me"})
    assert index.file_nbytes == sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize("kind", SAVERS)
def test_the_listing_itself_reads_the_folder_around_it(kind, tmp_path):
    folder = write(tmp_path / "m", kind)
    path = tmp_path / "m" / "other name"
    (folder / SAVERS[kind][0]).rename(path)
    with holdfast.open(path) as checkpoint:
        assert checkpoint.names() == list(TENSORS)
        for name, tensor in TENSORS.items():
            assert (checkpoint.array(name) == tensor.numpy()).all()
    assert load_file(path).keys() == TENSORS.keys()
    assert holdfast.verify(path).status in ("good", "unknown")


def test_a_listing_in_memory_has_no_files(tmp_path):
    data = (write(tmp_path / "m") / SAFE).read_bytes()
    with pytest.raises(FormatError) as caught:
        load_file(io.BytesIO(data))
    assert str(caught.value) == (
        "this listing names files that lie beside it\n"
        "  in <BytesIO>\n"
        "  Give its path, or that of its folder, not an open file."
    )


def test_storages_of_two_files_are_two(tmp_path):
    index = look(write(tmp_path / "m", "torch_sharded"))
    assert len(index.extents) == len(TENSORS)
    assert set(index.extents) == {ref.storage.key for ref in index.tree.values()}
    assert len({extent.member for extent in index.extents.values()}) == len(TENSORS)


def test_damage_names_the_tensor(tmp_path):
    folder = write(tmp_path / "m", "torch_sharded")
    extent = look(folder).extents["pytorch_model-00002-of-00002.bin/1"]
    data = bytearray(Path(extent.file).read_bytes())
    data[extent.offset] ^= 1
    Path(extent.file).write_bytes(data)
    report = holdfast.verify(folder)
    assert [damage.tensors for damage in report.damages] == [("layer.3.weight",)]


def refusal(folder: Path) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught:
        look(folder)
    return caught.value


@pytest.mark.parametrize("kind", SAVERS)
def test_shards_without_their_listing_are_no_checkpoints_of_a_run(kind, tmp_path):
    """The last of them was taken for the latest checkpoint there, and passed for good."""
    folder = write(tmp_path / "m", kind)
    listing, name, _ = SAVERS[kind]
    (folder / listing).unlink()
    assert str(refusal(folder)) == (
        "the listing of these shards is not there\n"
        f"  in {folder}\n"
        "  wanted model.safetensors.index.json or pytorch_model.bin.index.json, "
        f"found {name.format(1)}, {name.format(2)}\n"
        "  Get it from where the folder came from; or name one shard, to read that alone."
    )
    with pytest.raises(FormatError, match="the listing of these shards is not there"):
        holdfast.open(folder)
    assert list(holdfast.open(folder / name.format(1)).index.extents)


def test_a_tensor_that_its_file_has_not(tmp_path):
    folder = write(tmp_path / "m", gone="model-00001-of-00002.safetensors")
    assert str(refusal(folder)) == (
        "a tensor of this checkpoint is not in the file that should have it\n"
        f"  in {folder}, member 'model-00001-of-00002.safetensors', tensor 'gone'\n"
        "  model.safetensors.index.json is that of another checkpoint: get both again."
    )


def test_a_tensor_that_two_files_have(tmp_path):
    folder = write(tmp_path / "m")
    first, second = (folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    safetensors.torch.save_file(TENSORS, first)
    assert str(refusal(folder)) == (
        "refused: each tensor is in one file of a checkpoint, that of the listing\n"
        f"  in {folder}, member '{first.name}', tensor 'layer.1.weight'\n"
        f"  wanted in '{second.name}' only\n"
        "  It was made so that two programs see two different checkpoints in it."
    )


def test_tensors_that_no_listing_names_are_a_note(tmp_path):
    folder = write(tmp_path / "m")
    path = folder / "model-00001-of-00002.safetensors"
    more = safetensors.torch.load_file(path) | {"more": torch.zeros(1)}
    safetensors.torch.save_file(more, path)
    index = look(folder)
    assert list(index.tree) == list(TENSORS)
    assert index.notes == ("the listing leaves out 1 of the tensors in its files, such as more",)


def test_a_file_that_is_not_there(tmp_path):
    folder = write(tmp_path / "m")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert str(refusal(folder)) == (
        "a file of this checkpoint is not there\n"
        f"  in {folder}\n"
        "  wanted 'model-00002-of-00002.safetensors'\n"
        "  model.safetensors.index.json names it: get the whole folder again."
    )


@pytest.mark.parametrize("place", ["../out", "/etc/passwd", "a/../../out", "", ".", "link"])
def test_paths_that_lead_out_are_refused(place, tmp_path):
    folder = write(tmp_path / "m", gone=place)
    safetensors.torch.save_file({"gone": torch.zeros(1)}, tmp_path / "out")
    (folder / "link").symlink_to(tmp_path / "out")
    error = refusal(folder)
    assert error.what == "refused: the files of a checkpoint folder lie in it"
    assert (type(error), error.member) == (RefusedError, place)


def test_the_layout_of_a_download_cache_is_read(tmp_path):
    plain, snapshot = write(tmp_path / "plain"), tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(plain.iterdir())):
        shutil.move(file, blobs / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    assert load_file(snapshot).keys() == TENSORS.keys()


@pytest.mark.parametrize("inside", [SAFE, "folder"])
def test_listings_are_not_nested(inside, tmp_path):
    folder = write(tmp_path / "m", gone=inside)
    (folder / "folder").mkdir()
    assert refusal(folder).what == "refused: a listing names files of tensors"


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        "[]",
        '{"weight_map": {}, "weight_map": {}}',
        '{"weight_map": NaN}',
        '{"weight_map": {"a": "\\ud800"}}',
        '{"weight_map"',
        "",
        "[" * 9999,
    ],
)
def test_a_listing_that_is_none(text, tmp_path):
    folder = write(tmp_path / "m")
    (folder / SAFE).write_text(text)
    error = refusal(folder)
    assert type(error) is FormatError
    assert error.what.startswith("this is no listing of") or "cannot be read" in error.what
    assert error.file == str(folder / SAFE)


def test_a_listing_of_too_many_tensors(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "_MOST_TENSORS", 2)
    assert refusal(write(tmp_path / "m")).what == "refused: a listing is not too large"


def test_a_listing_of_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded, "_MOST_FILES", 1)
    assert refusal(write(tmp_path / "m")).what == "refused: a checkpoint has not too many files"


def test_a_file_that_holds_no_dict(tmp_path):
    folder = write(tmp_path / "m", "torch_sharded")
    torch.save([1], folder / "pytorch_model-00002-of-00002.bin")
    assert refusal(folder).what == "a file of this checkpoint is no dict of tensors"


def test_a_listing_whose_files_are_elsewhere_is_passed_over(tmp_path):
    folder = write(tmp_path / "m")
    shutil.copy(write(tmp_path / "other", "torch_sharded") / TORCH, folder)
    assert look(folder).format == "safetensors_sharded"


def test_several_listings_are_ambiguous(tmp_path):
    folder = write(tmp_path / "m")
    text = (folder / SAFE).read_text()
    (folder / SAFE).unlink()
    for name in ("a.index.json", "b.index.json"):
        (folder / name).write_text(text)
    with pytest.raises(NotACheckpointError) as caught:
        look(folder)
    assert str(caught.value) == (
        "this folder holds several checkpoints\n"
        f"  in {folder}\n"
        "  found a.index.json, b.index.json\n"
        "  Name the one that you mean."
    )
    assert list(look(folder / "a.index.json").tree) == list(TENSORS)
    (folder / "b.index.json").unlink()
    assert look(folder).format == "safetensors_sharded"
