"""What is said of torch's own classes is compared with the classes themselves."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import warnings

import pytest
import torch
from torch import nn

from holdfast.pickles.module_classes import (
    OVERRIDING,
    is_torchs_own,
    overrides_state_dict,
    version_of,
)
from holdfast.pickles.modules import is_module
from holdfast.spec.index import Opaque
from holdfast.tensors.load import load_file

#: Methods that change what goes into a state dict.
METHODS = ("state_dict", "_save_to_state_dict", "get_extra_state")
#: Those of lazy modules treat parameters without values otherwise, and nothing else.
LAZY = nn.modules.lazy.LazyModuleMixin


def classes() -> dict[str, type[nn.Module]]:
    """All module classes of torch.nn and torch.ao, by symbol."""
    import torch.distributed.algorithms._checkpoint.checkpoint_wrapper
    import torch.distributed.nn.api.remote_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in (torch.nn, torch.ao):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                # Some need packages that are not installed.
                with contextlib.suppress(ImportError):
                    importlib.import_module(module.name)
    found: dict[str, type[nn.Module]] = {}
    todo: list[type] = [nn.Module]
    while todo:
        cls = todo.pop()
        symbol = f"{cls.__module__}.{cls.__qualname__}"
        if symbol not in found:
            found[symbol] = cls
            todo += type.__subclasses__(cls)
    return {symbol: cls for symbol, cls in found.items() if symbol.startswith("torch.")}


@pytest.fixture(scope="module", name="every")
def _every() -> dict[str, type[nn.Module]]:
    return classes()


def test_the_classes_that_change_their_state_dict_are_those_listed(every) -> None:
    changing = {
        symbol
        for symbol, cls in every.items()
        if any(getattr(cls, name) is not getattr(nn.Module, name) for name in METHODS)
        and not issubclass(cls, LAZY)
    }
    assert len(every) > 300
    assert changing - OVERRIDING == set()
    assert {symbol for symbol in OVERRIDING if symbol in every} == changing


def test_every_version_is_that_of_the_class(every) -> None:
    state = {"_buffers": {}}
    wrong = {
        symbol: cls._version
        for symbol, cls in every.items()
        if version_of(Opaque(cls.__module__, cls.__qualname__, "newobj"), state) != cls._version
    }
    assert wrong == {}


def test_classes_of_older_torch_are_known_under_their_names_of_then() -> None:
    assert overrides_state_dict("torch.nn.quantized.modules.linear.Linear")
    assert overrides_state_dict("torch.quantization.fake_quantize.FakeQuantize")
    assert not overrides_state_dict("torch.nn.modules.linear.Linear")
    assert not overrides_state_dict("mine.Linear")
    linear = Opaque("torch.nn.quantized.modules.linear", "Linear", "newobj")
    assert version_of(linear, {"_buffers": {}}) == 3


def test_a_batch_norm_of_somebodys_own_has_the_version_of_batch_norms() -> None:
    mine = Opaque("mine", "Norm", "newobj")
    assert version_of(mine, {"_buffers": {"num_batches_tracked": None}}) == 2
    assert version_of(mine, {"_buffers": {"mean": None}}) == 1
    assert is_torchs_own("torch.nn.modules.linear.Linear")
    assert not is_torchs_own("torchvision.models.resnet.ResNet")


# ---- every class of torch.nn that can be made

_SIZES = {
    **dict.fromkeys(("encoder_layer", "decoder_layer", "module"), None),  # see below
    **dict.fromkeys(("in_features", "out_features", "in1_features", "in2_features"), 4),
    **dict.fromkeys(("in_channels", "out_channels", "num_channels", "num_features"), 4),
    **dict.fromkeys(
        ("input_size", "hidden_size", "d_model", "embed_dim", "n_classes", "num_classes"), 4
    ),
    **dict.fromkeys(("num_embeddings", "embedding_dim", "normalized_shape", "size"), 4),
    **dict.fromkeys(("num_heads", "nhead", "num_groups", "kernel_size", "num_layers"), 2),
    **dict.fromkeys(("upscale_factor", "downscale_factor", "padding", "groups"), 2),
    **dict.fromkeys(("output_size", "scale_factor", "unflattened_size"), 2),
    **{"lower": 0.1, "upper": 0.3, "lambd": 0.5, "threshold": 0.1, "value": 0.5, "dim": 1},
    **{
        "min_val": 0.0,
        "max_val": 1.0,
        "cutoffs": [2],
        "mode": "LSTM",
        "norm_type": 2,
        "bias": True,
        "num_chunks": 1,
    },
}


def arguments(cls: type) -> dict:
    """A value for each argument that has no default."""
    signature = inspect.signature(cls)
    given = {
        name: _SIZES[name]
        for name, parameter in signature.parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is not inspect.Parameter.VAR_POSITIONAL
        and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    special = {
        "AdaptiveLogSoftmaxWithLoss": {"n_classes": 5},
        "Fold": {"output_size": 4},
        "FractionalMaxPool2d": {"output_size": 2},
        "FractionalMaxPool3d": {"output_size": 2},
        "Unflatten": {"unflattened_size": (2, 2)},
        "TransformerEncoder": {"encoder_layer": nn.TransformerEncoderLayer(4, 2, 4)},
        "TransformerDecoder": {"decoder_layer": nn.TransformerDecoderLayer(4, 2, 4)},
        "Transformer": {"d_model": 4, "nhead": 2, "dim_feedforward": 4},
        "DataParallel": {"module": nn.Linear(1, 1)},
        **{name: {"input_size": 2, "hidden_size": 3} for name in ("GRU", "LSTM", "RNN")},
    }
    return {**given, **special.get(cls.__name__, {})}


def made() -> dict[str, nn.Module]:
    """One of each class that torch.nn exports; abstract ones and wrappers of groups left out."""
    left_out = {"Container", "DistributedDataParallel"}
    found = {}
    for name in sorted(vars(nn)):
        cls = getattr(nn, name)
        if isinstance(cls, type) and issubclass(cls, nn.Module) and name not in left_out:
            found[name] = cls(**arguments(cls))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_every_class_of_torch_nn_gives_its_own_state_dict() -> None:
    models = made()
    assert len(models) > 140
    different = []
    for name, model in models.items():
        buffer = io.BytesIO()
        torch.save(nn.ModuleDict({"m": model}), buffer)
        buffer.seek(0)
        ours, theirs = load_file(buffer, opaque="state_dict"), nn.ModuleDict({"m": model})
        wanted = theirs.state_dict()
        same = list(ours) == list(wanted) and ours._metadata == wanted._metadata
        for key, value in wanted.items() if same else ():
            if nn.parameter.is_lazy(value):
                same = same and ours[key].name == type(value).__name__
            else:
                same = same and torch.equal(ours[key], value)
        if not same:
            different.append(name)
    assert different == []


def test_a_quantized_model_is_said_to_be_doubtful(caplog) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 3)))
        buffer = io.BytesIO()
        torch.save(model, buffer)
    buffer.seek(0)
    load_file(buffer, opaque="state_dict")
    assert caplog.messages[0] == (
        "<BytesIO>: 0 (torch.ao.nn.quantized.dynamic.modules.linear.Linear) changes what goes "
        "into its state dict: here are its parameters and buffers as they are"
    )


def test_is_module_of_what_is_none() -> None:
    assert not is_module(3)
    assert not is_module(Opaque("a", "B"))
    assert not is_module(Opaque("a", "B", "reduce", state={"_parameters": {}}, has_state=True))
