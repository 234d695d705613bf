"""Files that torch 1.0, 1.4 and 1.5 wrote under Python 2.7 and 3.7; see tests/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.tensors.test_load_like_torch import same

from holdfast.errors import FormatError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.looking import open as look
from holdfast.tensors.load import load_file

DATA = Path(__file__).parents[2] / "data"
PT = sorted(path.name for path in DATA.glob("*.pt") if not path.name.startswith("latin1"))
STATES = [*sorted(path.name for path in DATA.glob("state-*")), "zip-py3.7-torch1.5.0.pt"]
OPTIMIZERS = sorted(path.name for path in DATA.glob("optimizer-*"))
MODELS = sorted(path.name for path in DATA.glob("model-*"))


def load(name: str, **options):
    encoding = "latin1" if name.endswith("2.7-torch1.4.0.pkl") else "utf-8"
    return load_file(DATA / name, encoding=encoding, **options)


def test_the_samples_are_there_and_small():
    assert len(STATES) == 7
    assert len(OPTIMIZERS) == len(MODELS) == 3
    assert all(path.stat().st_size < 20_000 for path in DATA.iterdir() if path.is_file())


@pytest.mark.parametrize("name", STATES)
def test_states(name):
    found = load(name)
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "grid": grid,
        "turned": grid.T,
        "row": grid[1],
        "double": np.arange(5) / 4,
        "half": (np.arange(5) / 4).astype(np.float16),
        "long": np.arange(5) * 10**12,
        "byte": np.arange(5, dtype=np.uint8),
        "parameter": np.arange(3, dtype=np.float32) - 1,
        "empty": np.zeros((0, 3), np.float32),
    }
    for key, array in expected.items():
        tensor = found[key].detach().numpy()
        assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape)
        assert tensor.tolist() == array.tolist()
    assert list(found) == [*expected, "epoch", "rate", "names"]
    assert isinstance(found["parameter"], torch.nn.Parameter)
    assert found["parameter"].requires_grad
    assert found["turned"].stride() == (1, 6)
    assert (found["epoch"], found["rate"]) == (7, 0.5)
    assert found["names"] == ["café", (1, None, True), {2: 3.0}]
    if name.endswith(".pt"):  # the standard pickler writes each storage anew
        places = {found[key].untyped_storage().data_ptr() for key in ("grid", "turned", "row")}
        assert len(places) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_of_optimizers(name):
    found = load(name)
    buffers = {number: found["state"][key]["momentum_buffer"] for number, key in enumerate(
        key for group in found["param_groups"] for key in group["params"]
    ) if key in found["state"]}  # fmt: skip
    # Those of the layers; a step of SGD begins with the gradient, which is the parameter's number.
    shapes = {0: (4, 3), 1: (4,), 2: (2, 4), 3: (2,)}
    numbers = {0: 0, 1: 1, 2: 4, 3: 5}  # 2 and 3 are the normalisation between them
    assert buffers.keys() == shapes.keys()
    for place, buffer in buffers.items():
        assert tuple(buffer.shape) == shapes[place]
        assert set(buffer.flatten().tolist()) == {float(numbers[place])}
    assert [group["lr"] for group in found["param_groups"]] == [0.5, 0.25]
    assert [group["momentum"] for group in found["param_groups"]] == [0.75, 0.75]


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_without_building_them(name):
    with open_source(DATA / name) as source:
        index = read_index(source)
    node = index.tree
    assert node.symbol == "torch.nn.modules.container.Sequential"
    assert node.source.startswith("class Sequential(Module):")
    assert "torch.nn.modules.batchnorm.BatchNorm1d" in index.symbols
    layers = node.state["_modules"]
    assert [layer.symbol.rpartition(".")[2] for layer in layers.values()] == [
        *("Linear", "BatchNorm1d", "ReLU", "Linear")
    ]
    assert "def forward(self, input" in layers["0"].source
    with look(DATA / name) as checkpoint:
        weight = checkpoint.array("3.weight")
        mean = checkpoint.array("1.running_mean")
    assert weight.tolist() == (np.arange(8).reshape(2, 4) / 8 + 4).tolist()
    assert mean.tolist() == [0, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:source code of class")
@pytest.mark.parametrize("name", [name for name in PT if not name.startswith("model")])
def test_torch_reads_the_same(name):
    assert same(load(name), torch.load(DATA / name, weights_only=False))


def test_text_of_python_2_that_is_no_utf_8():
    path = DATA / "latin1-py2.7-torch1.4.0.pt"
    found = load_file(path, encoding="latin1")
    assert found["word"] == "café"
    assert found["tensor"].tolist() == [0, 1, 2]
    as_bytes = load_file(path, encoding="bytes")
    assert same(as_bytes, torch.load(path, weights_only=False, encoding="bytes"))
    assert as_bytes[b"word"] == b"caf\xe9"


def test_the_letter_about_text_that_is_no_utf_8():
    path = DATA / "latin1-py2.7-torch1.4.0.pt"
    with pytest.raises(FormatError) as caught:
        load_file(path)
    assert str(caught.value) == (
        "the pickle in this file cannot be read: Python 2 text in it is not utf-8: "
        'try encoding="latin1"\n'
        f"  in {path}, member 'the object'\n"
        "  found at byte 20 of 238\n"
        '  Text of Python 2 does not name its encoding; "bytes" leaves it as it is.'
    )
