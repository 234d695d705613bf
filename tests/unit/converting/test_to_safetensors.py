"""From any checkpoint to safetensors files: the oracle is the package safetensors."""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import same
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import holdfast
from holdfast import looking
from holdfast.converting.safetensors_file import parse_size
from holdfast.errors import DamagedError, FileError, UsageError


def test_a_state_dict_becomes_a_safetensors_file_that_others_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    report = holdfast.convert(tmp_path / "model.pt", tmp_path / "model.safetensors")
    made = load_file(tmp_path / "model.safetensors")
    assert same({name: made[name] for name in model.state_dict()}, model.state_dict())
    assert report.files == {
        str(tmp_path / "model.safetensors"): (tmp_path / "model.safetensors").stat().st_size
    }
    assert [item.name for item in report.items] == list(model.state_dict())
    assert (report.format_from, report.format_to, report.part) == ("torch_zip", "safetensors", None)
    assert (tmp_path / "model.pt").read_bytes() == before


def test_each_tensor_has_a_checksum_that_verify_checks(training, tmp_path):
    path = tmp_path / "m.safetensors"
    holdfast.convert(training.path, path)
    assert holdfast.verify(path).status == "good"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    report = holdfast.verify(path)
    assert report.status == "damaged"
    [damage] = report.damages
    with holdfast.open(path) as checkpoint, pytest.raises(DamagedError):
        checkpoint.array(damage.tensors[0])


def test_every_byte_of_a_converted_file_is_covered(training, tmp_path):
    """The header carries a checksum of itself: a changed name or type is noticed as well."""
    path = tmp_path / "m.safetensors"
    holdfast.convert(training.path, path)
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        assert not looking.check(path).ok, place


def test_shards_are_a_folder_with_an_index(tmp_path):
    tensors = OrderedDict((f"layer.{n}", torch.randn(50)) for n in range(7))
    torch.save(tensors, tmp_path / "m.pt")
    report = holdfast.convert(tmp_path / "m.pt", tmp_path / "llm", shard_size=450)
    names = sorted(path.name for path in (tmp_path / "llm").iterdir())
    assert names == [
        *(f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)),
        "model.safetensors.index.json",
    ]
    assert [Path(file).name for file in report.files] == names
    index = json.loads((tmp_path / "llm" / names[-1]).read_text())
    assert index["metadata"] == {"total_size": 1400}
    made = {}
    for name, file in index["weight_map"].items():
        made[name] = load_file(tmp_path / "llm" / file)[name]
    assert same(made, tensors)
    with holdfast.open(tmp_path / "llm") as checkpoint:
        assert checkpoint.names() == list(tensors)
        assert np.array_equal(checkpoint.array("layer.6"), tensors["layer.6"].numpy())
    assert holdfast.verify(tmp_path / "llm").status == "good"


def test_a_folder_is_written_anew_or_not_at_all(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "m.pt")
    (tmp_path / "llm").mkdir()
    holdfast.convert(tmp_path / "m.pt", tmp_path / "llm", shard_size="1GB")
    with pytest.raises(FileError) as caught:
        holdfast.convert(tmp_path / "m.pt", tmp_path / "llm", shard_size="1GB")
    assert str(caught.value) == (
        "a folder is written anew, and something is there already\n"
        f"  in {tmp_path}/llm\n"
        "  Choose another name, or remove it first."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm", "m.pt"]


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5GB", 5 * 10**9), ("1.5 kb", 1500), ("2GiB", 2 << 30), (100, 100), ("7", 7), ("3b", 3)],
)
def test_sizes(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "5 apples"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="this is no size of a file"):
        parse_size(text)


def test_metadata_of_others_is_kept(tmp_path):
    about = {"license": "mit", "format": "pt", "b": "w"}
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", about)
    holdfast.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="bf16")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["license"] == "mit"
        assert file.metadata()["b"] == "w"
    report = holdfast.convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    # In which order safetensors writes metadata is up to chance.
    said = next(note for note in report.notes if "no place in a torch file" in note)
    assert said.partition(": ")[0] == "the metadata has no place in a torch file"
    assert sorted(said.partition(": ")[2].split(", ")) == ["b", "license"]


def test_names_that_mean_something_else_in_the_metadata_are_no_ties(tmp_path):
    shared = torch.arange(3.0)
    names = ["format", "holdfast", "holdfast.crc32", "holdfast.header_crc32", "zz"]
    torch.save(dict.fromkeys(names, shared), tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    with holdfast.open(tmp_path / "b.safetensors") as made:
        assert sorted(made.names()) == names
        assert all(made.array(name).tolist() == [0, 1, 2] for name in names)
    torch.save({"__metadata__": shared}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="safetensors keeps this name for the metadata"):
        holdfast.convert(tmp_path / "a.pt", tmp_path / "c.safetensors")


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 3)
    )
)
def test_any_names_survive_the_way_there_and_back(names):
    tensors = {name: torch.full((size,), float(size)) for name, size in names.items()}
    if not tensors:
        return
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (Path(folder) / n for n in ("a.pt", "b.safetensors", "c.pt"))
        torch.save(tensors, first)
        if any(name.startswith(("holdfast", "__metadata__")) for name in tensors):
            return
        holdfast.convert(first, second)
        holdfast.convert(second, third, plain=True)
        made = torch.load(third, weights_only=True)
        assert {name: made[name].tolist() for name in tensors} == {
            name: tensor.tolist() for name, tensor in tensors.items()
        }
