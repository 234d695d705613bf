from __future__ import annotations

import json
import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.unit.formats import test_sharded as shards

import holdfast
from holdfast.errors import HoldfastError, NotACheckpointError, TruncatedError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.spec.index import Index
from holdfast.tensors.load import load_file


class Arguments:
    """Stands for transformers.TrainingArguments."""


def train() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


STATE = {"global_step": 500, "best_metric": None, "log_history": [{"loss": 1.5, "step": 10}]}


def trainer(folder: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The files of a ``checkpoint-500`` of transformers' Trainer, but for the weights."""
    folder.mkdir(exist_ok=True)
    model, optimizer = train()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(scheduler.state_dict(), folder / "scheduler.pt")
    state = {"python": random.getstate(), "cpu": torch.random.get_rng_state()}
    torch.save(state, folder / "rng_state.pth")
    torch.save(Arguments(), folder / "training_args.bin")
    (folder / "trainer_state.json").write_text(json.dumps(STATE))
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "tokenizer.model").write_bytes(b"\x0a\x05hello")
    (folder / "README.md").write_text("# A model\n")
    return model, optimizer


def look(path: Path) -> Index:
    with open_source(path) as source:
        return read_index(source)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_the_trainer(weights, tmp_path):
    folder = tmp_path / "checkpoint-500"
    model, optimizer = trainer(folder)
    save = safetensors.torch.save_file if weights.endswith("s") else torch.save
    save(dict(model.state_dict()), folder / weights)
    loaded = load_file(folder, trust=[Arguments])
    names = ["model", "optimizer", "rng_state", "scheduler", "training_args", "trainer_state"]
    assert list(loaded) == names
    assert same(loaded["model"], dict(model.state_dict()))
    assert same(loaded["optimizer"], optimizer.state_dict())
    assert same(loaded["scheduler"], torch.load(folder / "scheduler.pt"))
    assert same(loaded["rng_state"], torch.load(folder / "rng_state.pth"))
    assert isinstance(loaded["training_args"], Arguments)
    assert loaded["trainer_state"] == STATE
    index = look(folder)
    assert (index.format, index.notes) == ("model_folder", ())
    assert [symbol.rpartition(".")[2] for symbol in index.symbols] == ["Arguments"]
    assert len({extent.member for extent in index.extents.values()}) == len(index.extents)
    read = {"model": weights, "optimizer": "optimizer.pt", "rng_state": "rng_state.pth"}
    files = {key.partition("/")[0] for key in index.extents}
    assert files == set(read.values())


def test_a_folder_of_accelerate(tmp_path):
    model, optimizer = train()
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model.bin")
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model_1.bin")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.bin")
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.bin")
    torch.save({"scale": 65536.0, "_growth_tracker": 3}, tmp_path / "scaler.pt")
    state = {"step": 3, "random_state": random.getstate(), "numpy": np.random.get_state()}
    torch.save(state, tmp_path / "random_states_0.pkl")
    (tmp_path / "custom_checkpoint_0.pkl").write_bytes(pickle.dumps({"a": 1}))
    loaded = load_file(tmp_path)
    assert list(loaded) == [
        *("model", "optimizer", "custom_checkpoint_0", "pytorch_model_1"),
        *("random_states_0", "scaler", "scheduler"),
    ]
    assert loaded["custom_checkpoint_0"] == {"a": 1}
    assert loaded["scaler"]["scale"] == 65536.0
    assert loaded["random_states_0"]["random_state"] == random.getstate()
    assert same(loaded["optimizer"], optimizer.state_dict())


@pytest.mark.parametrize("kind", shards.SAVERS)
def test_weights_in_several_files_beside_an_optimizer(kind, tmp_path):
    folder = shards.write(tmp_path / "m", kind)
    _, optimizer = trainer(folder)
    (folder / "training_args.bin").unlink()
    loaded = load_file(folder)
    assert list(loaded) == ["model", "optimizer", "rng_state", "scheduler", "trainer_state"]
    assert same(loaded["model"], shards.TENSORS)
    assert same(loaded["optimizer"], optimizer.state_dict())
    assert look(folder).format == "model_folder"
    assert look(folder).metadata["of"] == "me"


def test_only_weights_are_one_part(tmp_path):
    safetensors.torch.save_file(
        {"w": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    index = look(tmp_path)
    assert (list(index.tree), list(index.tree["model"])) == (["model"], ["w"])
    assert dict(index.metadata) == {"format": "pt"}
    with holdfast.open(tmp_path) as checkpoint:
        assert checkpoint.array("model.w").tolist() == [1, 1]
    assert holdfast.verify(tmp_path).unknown == ("model.safetensors/w",)
    torch.save({"lr": torch.ones(1)}, tmp_path / "optimizer.pt")
    report = holdfast.verify(tmp_path)
    assert (report.status, report.unknown) == ("unknown", ("model.safetensors/w",))
    assert report.to_text().endswith(
        "(safetensors files, JSON and files of torch before 1.6 have none): model.safetensors/w"
    )


def test_two_files_of_one_stem_have_their_whole_names(tmp_path):
    for name in ("model.safetensors", "extra.safetensors"):
        safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / name, {"of": name})
    for name in ("pytorch_model.bin", "extra.pt"):
        torch.save({"w": torch.zeros(2)}, tmp_path / name)
    index = look(tmp_path)
    assert list(index.tree) == ["model", "pytorch_model.bin", "extra", "extra.safetensors"]
    assert dict(index.metadata) == {
        "of": "model.safetensors",
        "extra.safetensors.of": "extra.safetensors",
    }
    assert len(index.extents) == 4


def test_what_cannot_be_read_is_a_note(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "optimizer.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "scheduler.pt").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "secret.pt").symlink_to("/etc/hostname")
    (tmp_path / "trainer_state.json").write_text('{"a": 1, "a": 2}')
    index = look(tmp_path)
    assert list(index.tree) == ["model"]
    assert index.notes == (
        "optimizer.pt is left out: this is a Git LFS pointer, not the file itself",
        "scheduler.pt is left out: this zip archive has no end: the file ends too early",
        "secret.pt is left out: refused: the files of a checkpoint folder lie in it",
        "trainer_state.json is left out: the JSON cannot be read",
    )


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", NotACheckpointError),
        (safetensors.torch.save({"a": torch.ones(9)})[:-1], TruncatedError),
    ],
)
def test_weights_that_cannot_be_read_are_an_error(data, error, tmp_path):
    trainer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(error) as caught:
        look(tmp_path)
    assert caught.value.file == str(tmp_path / "model.safetensors")


def test_numbers_that_python_writes_into_json(tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text('{"grad_norm": NaN, "best": -Infinity}')
    state = look(tmp_path).tree["trainer_state"]
    assert math.isnan(state["grad_norm"])
    assert state["best"] == -math.inf


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "[" * 150 + "]" * 150, " " * (17 << 20)])
def test_json_that_is_deep_or_large_is_left_out(text, tmp_path):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "trainer_state.json").write_text(text)
    index = look(tmp_path)
    assert list(index.tree) == ["model"]
    assert index.notes[0].startswith("trainer_state.json is left out: ")


def test_files_in_another_byte_order_are_told_of(tmp_path, asm_big_endian):
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "optimizer.pt").write_bytes(asm_big_endian)
    assert look(tmp_path).notes == (
        "optimizer.pt is left out: refused: the files of a checkpoint have one byte order",
    )


@pytest.fixture
def asm_big_endian(tmp_path_factory) -> bytes:
    import zipfile

    old = tmp_path_factory.mktemp("old") / "a.pt"
    new = old.with_name("b.pt")
    torch.save({"a": torch.ones(1)}, old)
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))
    return new.read_bytes()


def test_a_folder_without_weights_is_no_checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HoldfastError) as caught:
        look(tmp_path)
    assert str(caught.value) == (
        "this folder is no checkpoint\n"
        f"  in {tmp_path}\n"
        "  wanted .metadata, model.safetensors.index.json, pytorch_model.bin.index.json, "
        "model.safetensors, pytorch_model.bin, found config.json\n"
        "  Name a file in it, or the folder of a run."
    )
