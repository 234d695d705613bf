"""From any checkpoint to .pt: whole or weights only, torch.load is the oracle."""

from __future__ import annotations

import argparse
import enum
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import same
from scanning import torch_zip

import holdfast

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]


def test_a_pt_without_options_keeps_all_that_is_plain(training, tmp_path):
    report = holdfast.convert(training.path, tmp_path / "all.pt")
    made = torch.load(tmp_path / "all.pt", weights_only=True)
    theirs = torch.load(training.path, weights_only=True)
    assert same(made["model"], training.weights)
    assert made["model"]._metadata == theirs["model"]._metadata
    assert made["epoch"] == 3
    assert made["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    for n, state in theirs["optimizer"]["state"].items():
        assert same(made["optimizer"]["state"][n], state)
    tied = made["model"]["embedding.weight"], made["model"]["out.weight"]
    assert tied[0].data_ptr() == tied[1].data_ptr()
    assert report.left_out == ()


def test_weights_as_an_ordered_dict_or_a_plain_one(training, tmp_path):
    holdfast.convert(training.path, tmp_path / "w.pt", part="model")
    holdfast.convert(training.path, tmp_path / "p.pt", plain=True)
    weights, plain = (torch.load(tmp_path / n, weights_only=True) for n in ("w.pt", "p.pt"))
    assert type(weights) is OrderedDict
    assert type(plain) is dict
    assert same(weights, training.weights)
    assert same(plain, training.weights)
    assert not any(tensor.requires_grad for tensor in plain.values())


def test_plain_files_are_what_libtorch_reads(training, tmp_path):
    """``torch::pickle_load``, the reader of C++, by its binding."""
    holdfast.convert(training.path, tmp_path / "p.pt", plain=True)
    made = torch._C._pickle_load_obj((tmp_path / "p.pt").read_bytes())
    assert same(made, training.weights)


def test_plain_files_of_types_that_libtorch_lacks_are_told_of(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(2).to(torch.uint16)}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", plain=True)
    assert report.notes == (
        "LibTorch's pickle_load does not read torch.uint16 (b): convert it with --dtype",
    )
    with pytest.raises(RuntimeError):
        torch._C._pickle_load_obj((tmp_path / "b.pt").read_bytes())


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


def test_objects_with_tensors_in_them_become_dicts_and_are_told_of(tmp_path):
    torch.save({"args": argparse.Namespace(w=torch.ones(2), lr=1)}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert report.notes == ("args was a argparse.Namespace: a plain dict now",)
    made = torch.load(tmp_path / "b.pt", weights_only=True)
    assert made["args"]["lr"] == 1
    assert made["args"]["w"].tolist() == [1, 1]


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
