"""Whole models without their classes: the weights equal what their own state_dict() gives."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import functools
import io
import logging
import pathlib
import pickle
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from holdfast.errors import UntrustedError
from holdfast.spec.index import Opaque
from holdfast.tensors.load import load_file
from holdfast.tensors.whole import overrides

ZIP = pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])


def saved(obj, *, is_zip: bool = True, pickle_module=pickle) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=is_zip, pickle_module=pickle_module)
    buffer.seek(0)
    return buffer


def weights(obj, **options):
    return load_file(saved(obj, **options), opaque="state_dict")


def assert_same(ours, theirs) -> None:
    assert type(ours) is OrderedDict
    assert list(ours) == list(theirs)
    for name, wanted in theirs.items():
        found = ours[name]
        assert type(found) is type(wanted), name
        assert found.dtype == wanted.dtype, name
        assert found.shape == wanted.shape, name
        assert found.stride() == wanted.stride(), name
        assert found.requires_grad is wanted.requires_grad is False, name
        assert vars(found) == vars(wanted) == {}, name
        assert torch.equal(found, wanted), name
    assert ours._metadata == theirs._metadata
    assert list(ours._metadata) == list(theirs._metadata)


class Net(nn.Module):
    """What a model of somebody's own may hold, beside and inside its state."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_parameter("none", None)
        self.register_buffer("mean", torch.rand(3))
        self.register_buffer("absent", None)
        self.register_buffer("cache", torch.rand(4), persistent=False)
        self.loose = torch.rand(5)
        self.layers = nn.ModuleList([nn.Linear(2, 3, dtype=torch.bfloat16), nn.Linear(3, 2)])
        self.table = nn.ModuleDict({"a": nn.Identity(), "b": nn.Conv2d(1, 2, 3)})
        self.empty = None
        self.register_module("nothing", None)
        self.frozen = nn.Parameter(torch.arange(4), requires_grad=False)
        self.hidden = [nn.Linear(9, 9)]
        self.config = {"width": 3, "names": ["x", "y"]}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.first = nn.Linear(2, 2)
        self.again = self.first


class Noted(nn.Module):
    """A parameter with an attribute, a Buffer, and one that is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2))
        self.weight.note = "mine"
        self.kept = nn.Buffer(torch.rand(2))
        self.dropped = nn.Buffer(torch.rand(2), persistent=False)


class Norm(nn.BatchNorm1d):
    pass


class Slotted(nn.Module):
    __slots__ = ("extra",)

    def __init__(self) -> None:
        super().__init__()
        self.extra = 3
        self.fc = nn.Linear(1, 2)


def odd_lists() -> nn.Module:
    parameters = nn.ParameterList([torch.rand(2), nn.Parameter(torch.rand(3)), 7])
    parameters.append("text")
    named = nn.ParameterDict({"b": torch.rand(2), "a": nn.Parameter(torch.rand(1)), "n": 3})
    return nn.ModuleDict({"listed": parameters, "named": named})


def trained_norms() -> nn.Module:
    made = nn.Sequential(
        nn.BatchNorm1d(3),
        nn.BatchNorm1d(3, affine=False),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        Norm(3),
        nn.SyncBatchNorm(3),
    )
    made[:5](torch.rand(4, 3, 2))
    return made


def half_and_strided() -> nn.Module:
    strided = nn.Conv2d(2, 2, 2).to(memory_format=torch.channels_last)
    made = nn.Sequential(nn.Linear(3, 4).half(), strided)
    made[1].weight.requires_grad_(False)
    return made


MODELS = {
    "own class": Net,
    "norms": trained_norms,
    "lists and dicts of parameters": odd_lists,
    "lstm": lambda: nn.LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=2),
    "gru": lambda: nn.GRU(2, 3, bias=False),
    "transformer": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True), 2
    ),
    "attention": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
    "data parallel": lambda: nn.DataParallel(Net()),
    "tied": Tied,
    "noted": Noted,
    "a class with slots": Slotted,
    "half, strided, frozen": half_and_strided,
    "meta": lambda: nn.Linear(2, 3, device="meta"),
    "weight norm of old": lambda: old_weight_norm(),
    "traced": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU())),
    "compiled": lambda: torch.compile(nn.Sequential(nn.Linear(2, 3)), backend="eager"),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
    "nothing in it": nn.Identity,
}


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(2, 3))


@ZIP
@pytest.mark.parametrize("name", MODELS)
def test_the_weights_are_those_of_the_models_own_state_dict(name, is_zip) -> None:
    model = MODELS[name]()
    if name == "meta":
        ours = weights(model, is_zip=is_zip)
        assert {k: (v.shape, v.device.type) for k, v in ours.items()} == {
            k: (v.shape, "meta") for k, v in model.state_dict().items()
        }
        return
    ours = weights(model, is_zip=is_zip)
    assert_same(ours, model.state_dict())
    model.load_state_dict(ours)


def rebuilt(cls: type) -> nn.Module:
    return cls.__new__(cls)


class WithoutRules(pickle.Pickler):
    """Takes parametrized modules, which say that they cannot be pickled, as they are."""

    def reducer_override(self, obj):
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            return rebuilt, (type(obj).__bases__[0],), vars(obj)
        if "<locals>" in getattr(obj, "__qualname__", ""):  # a hook of torch's that has no name
            return rebuilt, (object,)
        return NotImplemented


class Script:
    """What torch.save takes for its pickle module."""

    __name__ = "script"
    Pickler = WithoutRules
    dump = staticmethod(pickle.dump)


PARAMETRIZED = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(2, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(2, 3)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "one inside another": lambda: nn.Sequential(
        nn.ReLU(), nn.ModuleDict({"a": parametrizations.weight_norm(nn.Conv1d(2, 3, 1))})
    ),
}


@ZIP
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrized_weights_bear_the_names_of_their_originals(name, is_zip) -> None:
    model = PARAMETRIZED[name]()
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules"):
        saved(model)
    ours = weights(model, is_zip=is_zip, pickle_module=Script)
    assert_same(ours, model.state_dict())
    assert any("parametrizations.weight.original" in key for key in ours)
    model.load_state_dict(ours)


@ZIP
def test_tied_weights_are_one_tensor_stored_once(is_zip) -> None:
    ours = weights({"model": Tied(), "ema": Tied()}, is_zip=is_zip)
    model = ours["model"]
    assert model["head.weight"] is model["embedding.weight"]
    assert model["again.bias"] is model["first.bias"]
    assert ours["ema"]["head.weight"] is not model["head.weight"]


@ZIP
def test_modules_are_found_wherever_they_stand(is_zip) -> None:
    net, shared = Net(), Tied()
    hparams = argparse.Namespace(width=3, net=net)
    checkpoint = {
        "epoch": 3,
        "model": net,
        "list": [shared, (1, (shared, "x"))],
        "args": hparams,
        "weights": net.scale,
    }
    ours = load_file(saved(checkpoint, is_zip=is_zip), opaque="state_dict")
    assert_same(ours["model"], net.state_dict())
    assert_same(ours["list"][0], shared.state_dict())
    assert ours["list"][1][1][0] is ours["list"][0]
    assert ours["list"][1][1][1] == "x"
    assert isinstance(ours["args"], Opaque)
    assert ours["args"].state == {"width": 3, "net": ours["model"]}
    assert ours["args"].state["net"] is ours["model"]
    assert type(ours["weights"]) is nn.Parameter
    assert ours["weights"].data_ptr() == ours["model"]["scale"].data_ptr()
    assert ours["epoch"] == 3


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.*:UserWarning")
def test_quantized_sparse_and_complex_tensors_stay_what_they_are() -> None:
    model = nn.Module()
    model.complex = nn.Parameter(torch.view_as_complex(torch.rand(3, 2)))
    model.register_buffer("conj", torch.view_as_complex(torch.rand(3, 2)).conj())
    quantized = torch.quantize_per_tensor(torch.rand(4), 0.1, 3, torch.qint8)
    model.register_buffer("quantized", quantized)
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    ours, theirs = weights(model), model.state_dict()
    assert list(ours) == list(theirs)
    assert torch.equal(ours["complex"], theirs["complex"])
    assert ours["conj"].is_conj()
    assert torch.equal(ours["quantized"].int_repr(), theirs["quantized"].int_repr())
    assert torch.equal(ours["sparse"].to_dense(), theirs["sparse"].to_dense())


def test_a_subclass_of_tensors_that_is_trusted_keeps_its_class() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.rand(2).as_subclass(Special))
    theirs = model.state_dict()["w"]
    assert type(theirs) is Special
    plain = load_file(saved(model), opaque="state_dict")["w"]
    assert type(plain) is torch.Tensor
    ours = load_file(saved(model), opaque="state_dict", trust=[Special])["w"]
    assert type(ours) is Special
    assert ours.requires_grad is theirs.requires_grad is False


class Special(torch.Tensor):
    pass


def test_a_model_whose_classes_are_all_trusted_is_built() -> None:
    both = [nn.Sequential(nn.Linear(1, 2)), nn.Sequential(nn.ReLU(), nn.Linear(2, 2))]
    trust = [nn.Sequential, nn.Linear]
    built, replaced = load_file(saved(both), opaque="state_dict", trust=trust)
    assert type(built) is nn.Sequential
    assert_same(replaced, both[1].state_dict())


# ---- classes that are gone

MODELS_OF_THE_PROJECT = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.register_buffer("steps", torch.tensor(3))
"""

SCRIPT = """
import torch
from gone_project import Net

net = Net()
torch.save(net, "whole.pt")
torch.save({"net": net, "epoch": 1}, "old.pt", _use_new_zipfile_serialization=False)
torch.save(net.state_dict(), "weights.pt")
"""


def test_the_class_is_really_gone(tmp_path: pathlib.Path, caplog) -> None:
    project = tmp_path / "gone_project.py"
    project.write_text(MODELS_OF_THE_PROJECT)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", "script.py"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    project.unlink()
    theirs = torch.load(tmp_path / "weights.pt", weights_only=True)
    with pytest.raises(ModuleNotFoundError):
        torch.load(tmp_path / "whole.pt", weights_only=False)
    assert_same(load_file(tmp_path / "whole.pt", opaque="state_dict"), theirs)
    assert caplog.messages == [
        f"{tmp_path / 'whole.pt'}: no file says whether gone_project.Net, gone_project.Block "
        "override state_dict(): parameters and buffers are as they are"
    ]
    caplog.clear()
    old = load_file(tmp_path / "old.pt", opaque="state_dict")
    assert_same(old["net"], theirs)
    assert old["epoch"] == 1
    assert not caplog.messages  # the file has the source text of both classes
    assert "gone_project" not in sys.modules


# ---- what may differ


class Extra(nn.Module):
    def get_extra_state(self):
        return 3

    def set_extra_state(self, state):
        pass


class Overriding(nn.Linear):
    class Inner(nn.Linear):
        def state_dict(self, *args, **kwargs):
            return super().state_dict(*args, **kwargs)


def test_classes_imported_here_are_looked_at_and_not_called() -> None:
    here = __name__
    assert overrides(here, "Extra") is True
    assert overrides(here, "Overriding") is False
    assert overrides(here, "Overriding.Inner") is True
    assert overrides(here, "Net") is False
    assert overrides(here, "Missing") is None
    assert overrides(here, "SCRIPT") is None
    assert overrides("never_imported_module", "Net") is None
    assert "never_imported_module" not in sys.modules


def test_a_class_that_is_imported_and_overrides_is_named(caplog) -> None:
    caplog.set_level(logging.WARNING, logger="holdfast")
    weights(nn.Sequential(Net(), Extra()))
    assert [record.getMessage() for record in caplog.records] == [
        f"<BytesIO>: 1 ({__name__}.Extra) changes what goes into its state dict: here are its "
        "parameters and buffers as they are"
    ]


def test_nothing_is_said_of_models_that_are_sure(caplog) -> None:
    weights(nn.Sequential(Net(), Tied()))
    assert not caplog.records


def test_parameters_that_have_no_values_yet_are_named(caplog) -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    ours = weights(model)
    assert list(ours) == list(model.state_dict())
    assert isinstance(ours["0.weight"], Opaque)
    assert ours["0.weight"].symbol == "torch.nn.parameter.UninitializedParameter"
    assert torch.equal(ours["1.num_batches_tracked"], torch.tensor(0))
    assert caplog.messages[0] == (
        "<BytesIO>: 0.weight of torch.nn.modules.linear.LazyLinear is not initialised yet: "
        "no values"
    )


# ---- checkpoints with hyperparameters, as training frameworks write them


class AttributeDict(dict):
    """Lightning's dict of hyperparameters."""


class Mode(enum.Enum):
    FAST = "fast"


@dataclasses.dataclass
class Settings:
    width: int
    folder: pathlib.PurePosixPath


@ZIP
@pytest.mark.parametrize("opaque", ["keep", "state_dict"])
def test_a_checkpoint_with_pickled_hyperparameters_gives_its_weights(opaque, is_zip) -> None:
    net = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(net.parameters())
    hparams = AttributeDict(lr=0.1, mode=Mode.FAST, act=functools.partial(max, key=abs))
    hparams.frozen = True
    checkpoint = {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": hparams,
        "args": argparse.Namespace(lr=0.1, sizes=[1, 2]),
        "settings": Settings(3, pathlib.PurePosixPath("a/b")),
        "loss": nn.CrossEntropyLoss,
    }
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(checkpoint, is_zip=is_zip))
    assert caught.value.symbols == tuple(
        sorted(
            [
                *(f"{__name__}.{name}" for name in ("AttributeDict", "Mode", "Settings")),
                *("argparse.Namespace", "builtins.abs", "builtins.max", "functools.partial"),
                *("pathlib.PurePosixPath", "torch.nn.modules.loss.CrossEntropyLoss"),
            ]
        )
    )
    ours = load_file(saved(checkpoint, is_zip=is_zip), opaque=opaque)
    assert_same(ours["state_dict"], net.state_dict())
    assert ours["optimizer_states"][0]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert ours["epoch"] == 3
    shown = ours["hyper_parameters"]
    assert shown.symbol == f"{__name__}.AttributeDict"
    assert dict(shown.pairs)["lr"] == 0.1
    assert dict(shown.pairs)["mode"].symbol == f"{__name__}.Mode"
    assert dict(shown.pairs)["act"].symbol == "functools.partial"
    assert shown.state == {"frozen": True}
    assert ours["args"].state == {"lr": 0.1, "sizes": [1, 2]}
    assert ours["settings"].state["width"] == 3
    assert ours["settings"].state["folder"].symbol == "pathlib.PurePosixPath"
    assert ours["loss"].is_global


def test_the_lines_of_the_error_are_all_that_is_needed() -> None:
    obj = {"args": argparse.Namespace(a=1), "net": nn.Sequential(nn.Linear(1, 1), nn.GELU())}
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(obj))
    told, *lines, call, without = caught.value.cure.splitlines()
    assert told == "If you trust where it comes from:"
    assert without == 'Without them: holdfast.load(path, opaque="state_dict") gives the weights.'
    names: dict = {}
    exec("\n".join(["import holdfast", *lines]), names)
    names["path"] = saved(obj)
    exec(f"made = {call}", names)
    assert names["made"]["args"] == obj["args"]
    assert type(names["made"]["net"]) is nn.Sequential
    with pytest.raises(UntrustedError):  # the next call trusts nothing again
        load_file(saved(obj))
    with pytest.raises(UntrustedError):  # nor does any other way of trusting hold
        load_file(saved(obj), trust=[nn.Linear])


def test_without_a_model_in_it_the_error_does_not_speak_of_weights() -> None:
    with pytest.raises(UntrustedError) as caught:
        load_file(saved(argparse.Namespace()))
    assert caught.value.cure.endswith('\nWithout them: holdfast.load(path, opaque="keep").')


# ---- any module at all


def leaf_modules():
    return st.sampled_from(
        [
            lambda: nn.Linear(1, 2),
            lambda: nn.BatchNorm1d(2),
            lambda: nn.ParameterList([torch.rand(1)]),
            lambda: nn.Identity(),
            Tied,
            Net,
        ]
    ).map(lambda make: make())


def holding(children):
    names = st.text(min_size=1, max_size=5).filter(lambda text: "." not in text)
    return st.dictionaries(names, st.none() | children, max_size=4).map(holder)


def holder(children: dict) -> nn.Module:
    made = nn.Module()
    for name, child in children.items():
        if not hasattr(made, name):
            made.add_module(name, child)
    made.register_buffer("own", torch.rand(1), persistent=len(children) % 2 == 0)
    return made


@settings(max_examples=40, deadline=None)
@given(st.recursive(leaf_modules(), holding, max_leaves=8), st.booleans())
def test_any_nesting_of_modules(model: nn.Module, is_zip: bool) -> None:
    ours = weights({"model": model}, is_zip=is_zip)["model"]
    assert_same(ours, model.state_dict())
