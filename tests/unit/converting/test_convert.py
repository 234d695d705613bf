"""Weights of any checkpoint, in another format: the oracles are torch and safetensors."""

from __future__ import annotations

import argparse
import enum
import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import samples
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file
from scanning import torch_zip

import holdfast
from holdfast import looking
from holdfast.converting import types
from holdfast.converting.safetensors_file import parse_size
from holdfast.errors import DamagedError, FileError, MissingPartError, UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]


class Tied(torch.nn.Module):
    """A model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.out = torch.nn.Linear(4, 10, bias=False)
        self.out.weight = self.embedding.weight


@pytest.fixture
def training(tmp_path) -> tuple[Path, torch.nn.Module]:
    """A checkpoint with a model and its optimizer."""
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters())
    model.out(model.norm(model.embedding(torch.arange(10)))).sum().backward()
    optimizer.step()
    path = tmp_path / "training.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    return path, model


def same(ours, theirs) -> bool:
    return list(ours) == list(theirs) and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in theirs
    )


# ---- to safetensors


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


def test_the_model_is_found_beside_its_optimizer(training, tmp_path):
    path, model = training
    report = holdfast.convert(path, tmp_path / "m.safetensors")
    assert report.part == "model"
    assert load_file(tmp_path / "m.safetensors").keys() == model.state_dict().keys() - {
        "out.weight"
    }


@pytest.mark.parametrize("options", [{}, {"shard_size": 200}])
def test_tied_weights_come_back_under_all_their_names(options, training, tmp_path):
    path, model = training
    middle = tmp_path / ("shards" if options else "middle.safetensors")
    holdfast.convert(path, middle, part="model", **options)
    assert set(holdfast.open(middle).names()) == set(model.state_dict())
    assert holdfast.verify(middle).ok
    report = holdfast.convert(middle, tmp_path / "back.pt")
    assert report.notes == ()
    back = torch.load(tmp_path / "back.pt")
    assert back["out.weight"].data_ptr() == back["embedding.weight"].data_ptr()
    Tied().load_state_dict(back)
    holdfast.convert(middle, tmp_path / "again.safetensors")
    load_model(Tied(), tmp_path / "again.safetensors")


def test_tied_weights_follow_the_rules_of_safetensors(training, tmp_path):
    """Stored once, under the first name, the other one in the metadata: load_model takes that."""
    path, model = training
    report = holdfast.convert(path, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["out.weight"] == "embedding.weight"
        assert file.metadata()["format"] == "pt"
    fresh = Tied()
    assert load_model(fresh, tmp_path / "m.safetensors") == (set(), [])
    assert same(fresh.state_dict(), model.state_dict())
    assert [item.name for item in report.items if item.tied_to] == ["out.weight"]


def test_each_tensor_has_a_checksum_that_verify_checks(training, tmp_path):
    path = tmp_path / "m.safetensors"
    holdfast.convert(training[0], path)
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
    holdfast.convert(training[0], path)
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        assert not looking.check(path).ok, place


def test_it_says_where_it_comes_from(tmp_path):
    model = torch.nn.Linear(2, 2)
    holdfast.save_state(tmp_path / "a.pt", model=model, metrics={"loss": 0.5})
    for name in ("b.safetensors", "b.pt"):
        holdfast.convert(tmp_path / "a.pt", tmp_path / name, part="model")
        record = holdfast.open(tmp_path / name).record
        assert record.parent == holdfast.open(tmp_path / "a.pt").record.id
        assert record.metrics == {"loss": 0.5}
        assert record.provenance == {"converted_from": "a.pt", "format_from": "torch_zip"}


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


# ---- to torch files


def test_a_pt_without_options_keeps_all_that_is_plain(training, tmp_path):
    path, model = training
    report = holdfast.convert(path, tmp_path / "all.pt")
    made = torch.load(tmp_path / "all.pt", weights_only=True)
    theirs = torch.load(path, weights_only=True)
    assert same(made["model"], model.state_dict())
    assert made["model"]._metadata == theirs["model"]._metadata
    assert made["epoch"] == 3
    assert made["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    for n, state in theirs["optimizer"]["state"].items():
        assert same(made["optimizer"]["state"][n], state)
    tied = made["model"]["embedding.weight"], made["model"]["out.weight"]
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert report.left_out == ()


def test_weights_as_an_ordered_dict_or_a_plain_one(training, tmp_path):
    path, model = training
    holdfast.convert(path, tmp_path / "w.pt", part="model")
    holdfast.convert(path, tmp_path / "p.pt", plain=True)
    weights, plain = (torch.load(tmp_path / n, weights_only=True) for n in ("w.pt", "p.pt"))
    assert type(weights) is OrderedDict
    assert type(plain) is dict
    assert same(weights, model.state_dict())
    assert same(plain, model.state_dict())
    assert not any(tensor.requires_grad for tensor in plain.values())


def test_plain_files_are_what_libtorch_reads(training, tmp_path):
    """``torch::pickle_load``, the reader of C++, by its binding."""
    holdfast.convert(training[0], tmp_path / "p.pt", plain=True)
    made = torch._C._pickle_load_obj((tmp_path / "p.pt").read_bytes())
    assert same(made, training[1].state_dict())


def test_views_share_their_storage_in_the_new_file_as_torch_saved_it(tmp_path):
    base, images = torch.arange(12.0), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tree = {
        "base": base,
        "view": base[2:8].view(2, 3),
        "expanded": torch.ones(1, 1).expand(1000, 1000),
        "images": images,
        "slice": torch.zeros(1_000_000)[10:14],
        "tied slice": None,
    }
    tree["tied slice"] = tree["slice"][:]
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "w.pt", rename={"base": "base"})
    assert [item.name for item in report.items] == list(tree)
    for made in (torch.load(tmp_path / "b.pt"), torch.load(tmp_path / "w.pt")):
        assert all(torch.equal(made[name], tree[name]) for name in tree)
        assert made["images"].stride() == images.stride()
        assert made["slice"].data_ptr() == made["tied slice"].data_ptr()
        made["base"][2] = 100
        assert made["view"][0, 0] == 100
    assert (tmp_path / "b.pt").stat().st_size < 6000
    assert (tmp_path / "w.pt").stat().st_size < 6000


def test_one_tensor_twice_is_one_tensor_and_another_in_its_storage_another(tmp_path):
    shared = torch.zeros(3)
    torch.save({"a": shared, "b": shared, "c": shared.detach()}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    made = torch.load(tmp_path / "b.pt")
    assert made["a"] is made["b"]
    assert made["a"] is not made["c"]
    assert made["a"].data_ptr() == made["c"].data_ptr()


def test_parameters_and_gradients_stay_where_the_whole_file_is_kept(tmp_path):
    tree = {
        "p": torch.nn.Parameter(torch.ones(2)),
        "frozen": torch.nn.Parameter(torch.ones(2), requires_grad=False),
        "t": torch.ones(2, requires_grad=True),
        "meta": torch.nn.Parameter(torch.empty(2, device="meta")),
    }
    torch.save(tree, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    for name, wanted in tree.items():
        assert type(made[name]) is type(wanted)
        assert made[name].requires_grad is wanted.requires_grad
        assert made[name].device == wanted.device


class Tagged(torch.Tensor):
    """A class of its own."""


def test_what_a_tensor_loses_is_said(tmp_path):
    tensor = torch.ones(2).as_subclass(Tagged)
    noted = torch.ones(2)
    noted.note = "mine"
    torch.save({"x": tensor, "y": noted}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert f"x was a {__name__}.Tagged: a plain tensor now" in report.notes
    assert report.left_out == ("y.__dict__",)
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert f"x was a {__name__}.Tagged: a plain tensor now" in report.notes


def test_parts_that_are_not_taken_are_named(training, tmp_path):
    path, _ = training
    report = holdfast.convert(path, tmp_path / "a.safetensors")
    assert (report.part, report.left_out) == ("model", ("optimizer", "epoch"))
    asked = holdfast.convert(path, tmp_path / "a.safetensors", part="model")
    assert asked.left_out == ()
    state = holdfast.convert(path, tmp_path / "a.safetensors", part="optimizer")
    assert "param_groups.0.lr" in state.left_out


WEIGHTS = {"fc.weight": torch.ones(2), "fc.bias": torch.zeros(1)}
OPTIMIZER = {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
CHOSEN = {
    "the weights beside a loose tensor": (
        {"epoch": 1, "state_dict": WEIGHTS, "best_acc1": torch.ones(()), "optimizer": OPTIMIZER},
        "state_dict",
        ("epoch", "best_acc1", "optimizer"),
    ),
    "the usual name of several": (
        {"state_dict": WEIGHTS, "callbacks": {"best_model_score": torch.ones(())}},
        "state_dict",
        ("callbacks",),
    ),
    "a flat state dict with values in it": (
        {**WEIGHTS, "block.count": 3, "block._extra_state": {"amax": torch.ones(1)}},
        None,
        ("block.count",),
    ),
    "a nested state dict with a tensor at its top": (
        {"fc": {"weight": torch.ones(2)}, "bias": torch.ones(1)},
        None,
        (),
    ),
    "weights at the top beside an optimizer": (
        {"w": torch.ones(2), "optimizer": OPTIMIZER},
        None,
        ("optimizer",),
    ),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_weights_are_found_and_what_is_beside_them_is_named(name, tmp_path):
    tree, part, left_out = CHOSEN[name]
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert (report.part, report.left_out) == (part, left_out)
    names = [item.name for item in report.items]
    assert not any("optimizer" in name or name.startswith("state.") for name in names)
    if part:
        assert set(names) == set(WEIGHTS)


def test_a_part_is_also_what_names_begin_with(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    torch.save({"model": net.state_dict(), "epoch": 1}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="model.1")
    assert (report.part, report.left_out) == ("model.1", ())
    assert same(torch.load(tmp_path / "b.pt"), net[1].state_dict())
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="modle")
    assert "found model\n" in str(caught.value)
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", part="nope")
    assert "found model, epoch\n" in str(caught.value)


def test_a_rule_that_takes_a_name_away_is_refused_and_names_the_file(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    for rules, words in (({"w": ""}, "a tensor would have no name"), ({"x": "y"}, "no name fits")):
        with pytest.raises(UsageError) as caught:
            holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", rename=rules)
        assert words in str(caught.value)
        assert str(tmp_path / "a.pt") in str(caught.value)


def test_what_becomes_another_kind_of_thing_is_said(tmp_path):
    torch.save({"n": np.arange(3), "s": np.float32(2.5), "t": torch.ones(1)}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert report.notes == (
        "n was a NumPy array: a tensor now",
        "s was a NumPy scalar: a plain number now",
    )


def test_extra_state_is_named_where_it_has_no_place(tmp_path):
    weights = {"w": torch.ones(2), "block._extra_state": {"calls": 3}}
    torch.save(weights, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert report.left_out == ("block._extra_state.calls",)
    holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt")["block._extra_state"] == {"calls": 3}


def test_what_is_known_of_the_source_is_said(tmp_path):
    frozen = torch.jit.freeze(torch.jit.script(torch.nn.Linear(2, 2).eval()))
    torch.jit.save(frozen, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert any("constants of its code" in note for note in report.notes)


def test_objects_are_left_out_and_named(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(
        {
            "w": torch.ones(2),
            "args": Path("x"),
            "numbers": np.arange(3),
            "scalar": np.float64(2.5),
            "list": [1, Path("y"), torch.zeros(1)],
            "set": {1, 2},
        },
        path,
    )
    report = holdfast.convert(path, tmp_path / "b.pt")
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert report.left_out == ("args", "list.1")
    assert made.keys() == {"w", "numbers", "scalar", "list", "set"}
    assert made["numbers"].tolist() == [0, 1, 2]
    assert made["scalar"] == 2.5
    assert made["list"][:2] == [1, None]
    assert made["set"] == {1, 2}


def test_every_kind_of_tensor_goes_through(tmp_path):
    x = torch.randn(6, 8)
    tensors = {
        "transposed": x.t(),
        "slice": x[::2, 1:4],
        "expanded": x[:1].expand(4, 8),
        "conj": torch.randn(3, dtype=torch.complex64).conj(),
        "coo": x.relu().to_sparse(),
        "csr": x.relu().to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(x, 0.1, 3, torch.quint8),
        "channels": torch.quantize_per_channel(
            x, torch.rand(6) / 9 + 0.01, torch.arange(6), 0, torch.qint8
        ),
        "bf16": x.bfloat16(),
        "fp8": x.to(torch.float8_e4m3fn),
        "uint16": x.abs().to(torch.uint16),
        "empty": torch.empty(0, 3),
        "number": torch.tensor(7),
        "meta": torch.empty(3, device="meta"),
    }
    torch.save(tensors, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert report.left_out == ()
    assert made["meta"].device.type == "meta"
    for name, wanted in tensors.items():
        if name == "meta":
            continue
        assert made[name].shape == wanted.shape
        assert made[name].dtype == wanted.dtype
        assert made[name].layout == wanted.layout
        pair = [t.dequantize() if t.is_quantized else t.to_dense() for t in (made[name], wanted)]
        assert torch.equal(*(t.float() if t.dtype == torch.float8_e4m3fn else t for t in pair)), (
            name
        )


# ---- types


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32", "fp64", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("source", ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn"])
def test_types_are_converted_as_torch_does(dtype, source, tmp_path):
    x = (torch.randn(4000) * torch.logspace(-9, 2, 4000)).to(getattr(torch, source))
    torch.save(
        {"x": x, "n": torch.arange(3), "c": torch.ones(2, dtype=torch.complex64)}, tmp_path / "a"
    )
    holdfast.convert(tmp_path / "a", tmp_path / "b.pt", dtype=dtype)
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    wanted = x.to(getattr(torch, types.parse(dtype).name))
    assert made["x"].dtype == wanted.dtype
    assert torch.equal(made["x"].view(torch.uint8), wanted.view(torch.uint8))
    assert (made["n"].dtype, made["c"].dtype) == (torch.int64, torch.complex64)


def test_numbers_that_do_not_fit_are_counted(tmp_path):
    torch.save({"w": torch.tensor([1.0, 1e6, -1e6, float("inf")])}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="fp16")
    assert report.unfit == {"w": 2}


def test_quantized_tensors_are_dequantized_by_a_type(tmp_path):
    x = torch.quantize_per_tensor(torch.randn(20), 0.1, 3, torch.quint8)
    torch.save({"x": x}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", dtype="fp32")
    assert torch.allclose(load_file(tmp_path / "b.safetensors")["x"], x.dequantize())
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "c.safetensors")
    assert caught.value.what == "safetensors has no type for torch.quint8"
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("name", ["int8", "apple", "complex64", ""])
def test_what_is_no_type(name):
    with pytest.raises(UsageError) as caught:
        types.parse(name)
    assert str(caught.value) == (
        "this is no floating-point type that tensors can be converted to\n"
        "  wanted fp64, fp32, fp16, bf16, fp8_e4m3 or fp8_e5m2 (or torch's names), "
        f"found {name!r}"
    )


# ---- names and parts


def test_names_are_changed_by_rules(tmp_path):
    torch.save({"module.a.w": torch.ones(1), "module.b.w": torch.zeros(1)}, tmp_path / "a.pt")
    report = holdfast.convert(
        tmp_path / "a.pt", tmp_path / "b.safetensors", rename={"module.*.w": "*.weight"}
    )
    assert load_file(tmp_path / "b.safetensors").keys() == {"a.weight", "b.weight"}
    assert [(i.old_name, i.name) for i in report.items] == [
        ("module.a.w", "a.weight"),
        ("module.b.w", "b.weight"),
    ]


def test_several_parts_are_an_error_that_lists_them(tmp_path):
    two = {"G": {"w": torch.ones(1)}, "D": {"w": torch.zeros(1)}}
    torch.save(two, tmp_path / "gan.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "gan.pt", tmp_path / "x.safetensors")
    assert str(caught.value) == (
        "this checkpoint holds several parts, and which one are the weights is not said\n"
        f"  in {tmp_path}/gan.pt\n"
        "  found G, D\n"
        '  Name one: --part G, or part="G".'
    )
    holdfast.convert(tmp_path / "gan.pt", tmp_path / "x.safetensors", part="D")
    assert load_file(tmp_path / "x.safetensors")["w"].item() == 0


def test_a_part_can_lie_deeper_and_its_name_hold_dots(tmp_path):
    torch.save({"a.b": {"c": {"w": torch.ones(1)}}, "n": 1}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "x.safetensors", part="a.b.c")
    assert load_file(tmp_path / "x.safetensors").keys() == {"w"}
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "y.safetensors", part="a.c")
    assert str(caught.value).splitlines()[0] == "nothing in this checkpoint is called 'a.c'"
    with pytest.raises(MissingPartError, match="there is no tensor in 'n'"):
        holdfast.convert(tmp_path / "a.pt", tmp_path / "y.safetensors", part="n")


@pytest.mark.parametrize(
    ("target", "options", "what"),
    [
        ("x.onnx", {}, "the suffix says in which format to write, and this one says none"),
        ("x", {}, "the suffix says in which format to write, and this one says none"),
        ("x.safetensors", {"shard_size": 5}, "shards are written into a folder of their own"),
        ("x.safetensors", {"plain": True}, "plain= is for .pt files"),
        ("a.pt", {}, "the source is never changed, and the target is the source or a file of it"),
    ],
)
def test_options_that_do_not_go_together(target, options, what, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / target, **options)
    assert caught.value.what == what


# ---- all or nothing


@pytest.mark.parametrize("target", ["b.pt", "b.safetensors", "shards"])
def test_a_damaged_source_writes_nothing(target, tmp_path):
    torch.save({"a": torch.randn(5000), "b": torch.randn(5000)}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[len(data) - 9000] ^= 8
    (tmp_path / "a.pt").write_bytes(data)
    (tmp_path / "b.pt").write_bytes(b"what was there")
    options = {"shard_size": "1MB"} if target == "shards" else {}
    with pytest.raises(DamagedError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / target, **options)
    assert caught.value.tensor == "b"
    assert (tmp_path / "b.pt").read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_a_dry_run_writes_nothing_and_tells_the_same(training, tmp_path):
    target = tmp_path / "x.safetensors"
    told = holdfast.convert(training[0], target, dry_run=True).to_json()
    assert not target.exists()
    done = holdfast.convert(training[0], target).to_json()
    assert told.pop("is_dry_run")
    assert not done.pop("is_dry_run")
    assert told == done


_MEMORY = """
import sys
import holdfast
holdfast.convert(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
with open("/proc/self/status") as status:  # getrusage would count the parent's memory, too
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("b.safetensors", {}),
        ("b.pt", {"dtype": "bf16"}),
    ],
)
def test_memory_does_not_grow_with_the_file(target, options, tmp_path):
    """A tensor of 400 MiB and its transpose in less than 256 MiB, without torch."""
    x = torch.zeros(10240, 10240)
    torch.save({"a": x, "b": x.t()}, tmp_path / "a.pt")
    command = [sys.executable, "-c", _MEMORY, str(tmp_path / "a.pt"), str(tmp_path / target)]
    done = subprocess.run([*command, repr(options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 256


def test_small_elements_take_no_more_memory_on_their_way_to_another_type(tmp_path):
    torch.save({"a": torch.zeros(10240, 10240).to(torch.float8_e5m2).t()}, tmp_path / "a.pt")
    files = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    command = [sys.executable, "-c", _MEMORY, *files, repr({"dtype": "float8_e8m0fnu"})]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 256


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 3)
    )
)
def test_any_names_survive_the_way_there_and_back(names):
    import tempfile

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


class Config(dict):
    """A dict of somebody's own, as configurations are."""


@pytest.mark.parametrize("target", ["b.pt", "b.safetensors"])
def test_tensors_in_dicts_of_other_classes_are_taken(target, tmp_path):
    config = Config(w=torch.ones(2), b=Config(c=torch.zeros(1)))
    torch.save(config, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / target)
    assert [item.name for item in report.items] == ["w", "b.c"]
    with holdfast.open(tmp_path / target) as made, holdfast.open(tmp_path / "a.pt") as source:
        assert made.names() == source.names() or target != "b.pt"
        assert made.array("b.c").tolist() == [0]
    torch.save({"state_dict": config, "epoch": 1}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "c.safetensors")
    assert (report.part, report.left_out) == ("state_dict", ("epoch",))


def test_objects_with_tensors_in_them_become_dicts_and_are_told_of(tmp_path):
    torch.save({"args": argparse.Namespace(w=torch.ones(2), lr=1)}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert report.notes == ("args was a argparse.Namespace: a plain dict now",)
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert made["args"]["lr"] == 1
    assert made["args"]["w"].tolist() == [1, 1]


def test_a_part_that_is_one_tensor_keeps_its_name(tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(2)}}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", part="model.fc.weight")
    assert [item.name for item in report.items] == ["weight"]
    torch.save(torch.ones(2), tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert [item.name for item in report.items] == ["tensor"]


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


@pytest.mark.filterwarnings("ignore")  # what the writers say of their formats
@pytest.mark.parametrize("name", ["sharded", "sharded_bin", "model_folder", "dcp"])
def test_no_file_of_the_source_is_ever_written(name, tmp_path):
    path = samples.write(name, tmp_path).path
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    targets = [*before, path / "new.pt"]
    suffixes = {".pt", ".safetensors", ".bin"}
    for target in [each for each in targets if each.suffix in suffixes]:
        with pytest.raises(UsageError, match="the source is never changed"):
            holdfast.convert(path, target, part="model" if "model" in name else None)
    listing = path / "model.safetensors.index.json"
    if listing.exists():
        shard = next(path.glob("*.safetensors"))
        with pytest.raises(UsageError, match="the source is never changed"):
            holdfast.convert(listing, shard)
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_plain_files_of_types_that_libtorch_lacks_are_told_of(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(2).to(torch.uint16)}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", plain=True)
    assert report.notes == (
        "LibTorch's pickle_load does not read torch.uint16 (b): convert it with --dtype",
    )
    with pytest.raises(RuntimeError):
        torch._C._pickle_load_obj((tmp_path / "b.pt").read_bytes())


def test_letters_name_the_file(tmp_path):
    torch.save({"c": torch.ones(2, dtype=torch.complex128)}, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert str(tmp_path / "a.pt") in str(caught.value)
    assert "tensor 'c'" in str(caught.value)


def test_the_text_of_a_report(training, tmp_path):
    path, _ = training
    target = tmp_path / "a.safetensors"
    report = holdfast.convert(path, target, dtype="fp8")
    nbytes = f"{target.stat().st_size / 1024:.1f} KiB"
    assert report.to_text().splitlines() == [
        f"{target}: {nbytes}",
        f"6 tensors of model written under 7 names, {nbytes}",
        "Left out: optimizer, epoch",
        "Tied: out.weight is embedding.weight, stored once",
    ]
    assert "TensorRef" not in repr(report)
    torch.save({f"w{n}": torch.full((n + 1,), 1e30) for n in range(12)}, tmp_path / "b.pt")
    text = holdfast.convert(tmp_path / "b.pt", target, dtype="fp8", dry_run=False).to_text()
    assert "Did not fit: 1 number of w0, now infinite, NaN or the type's largest" in text
    assert "  and 2 more tensors with such numbers (to_json and --json have all)" in text


class Attributes(dict):
    """Keys that are attributes, too, as many configurations have them."""


def test_an_attribute_of_the_name_of_a_key_is_told_of(tmp_path):
    config = Attributes(w=torch.ones(2))
    config.w = torch.zeros(3)
    torch.save({"c": config}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert torch.load(tmp_path / "b.pt")["c"]["w"].tolist() == [1, 1]
    assert report.left_out == ("c.w (its key is no plain value, or is there twice)",)


def test_keys_that_are_none_are_told_of(tmp_path):
    """``C()[[]] = 1``, as only a pickle made by hand has it."""
    path = tmp_path / "a.pt"
    path.write_bytes(torch_zip(b"\x80\x02c__main__\nC\n)\x81]K\x01s(K\x02K\x03u."))
    report = holdfast.convert(path, tmp_path / "b.pt")
    assert report.left_out == ("[] (its key is no plain value, or is there twice)",)
    assert report.notes == ("the whole file was a __main__.C: a plain dict now",)
    assert torch.load(tmp_path / "b.pt") == {2: 3}


class Colour(enum.Enum):
    """Members of it are keys, as people have them."""

    RED = 1


def test_entries_whose_keys_are_objects_are_told_of(tmp_path):
    torch.save({"d": {Colour.RED: torch.ones(1), (1, "a"): torch.ones(2)}}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert report.left_out == (
        f"d.<{__name__}.Colour> (its key is no plain value, or is there twice)",
    )
    assert list(torch.load(tmp_path / "b.pt")["d"]) == [(1, "a")]
