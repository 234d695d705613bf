"""``Checkpoint.text`` of every kind of tensor is what torch prints of the loaded one."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

import holdfast
from holdfast.arrays import text

BIG = torch.arange(120_000.0).reshape(300, 400) / 7


def tensors() -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = torch.arange(12.0).reshape(3, 4) - 5
        scales, zeros = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 2, 3])
        return {
            "plain": plain,
            "big": BIG,
            "slice": BIG.t()[5:],
            "cube": torch.arange(64_000.0).reshape(40, 40, 40).requires_grad_(),
            "parameter": torch.nn.Parameter(plain),
            "meta": torch.empty(3, 4, device="meta"),
            "empty": torch.empty(0, 4, dtype=torch.int16),
            "coo": torch.eye(4).to_sparse(),
            "csr": torch.eye(4, dtype=torch.float64).to_sparse_csr(),
            "bf16": plain.bfloat16(),
            "fp8": BIG[:50, :50].to(torch.float8_e4m3fn),
            "expanded": torch.ones(1, 1).expand(2000, 3000),
            "conjugate": torch.complex(plain, plain).conj(),
            "half complex": torch.complex(plain, plain).to(torch.complex32),
            "uint16": torch.tensor([1, 2, 65535], dtype=torch.uint16),
            "bool": plain > 0,
            "quantized": torch.quantize_per_tensor(plain, 0.1, 3, torch.quint8),
            "per channel": torch.quantize_per_channel(plain, scales, zeros, 0, torch.qint8),
        }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("text") / "all.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensors(), made)
    return str(made)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", tensors())
def test_as_torch_prints_it(name, path) -> None:
    with holdfast.open(path) as checkpoint:
        assert checkpoint.text(name) == str(torch.load(path)[name])


def test_of_a_large_tensor_only_the_corners_are_put_into_memory(path, monkeypatch) -> None:
    sizes = []
    whole = text.Reader.array
    monkeypatch.setattr(
        text.Reader, "array", lambda self, node: sizes.append(node.numel) or whole(self, node)
    )
    with holdfast.open(path) as checkpoint:
        assert checkpoint.text("big") == repr(BIG)
    assert sum(sizes) == 36


def test_numbers_as_json(tmp_path) -> None:
    tree = {
        "floats": torch.tensor([1.5, float("nan"), -float("inf")], dtype=torch.bfloat16),
        "complex": torch.tensor([1 + 2j]),
        "bool": torch.tensor([[True]]),
        "number": torch.tensor(3),
        "array": np.array([1, 2]),
        "meta": torch.empty(2, device="meta"),
        "large": torch.zeros(10_001),
    }
    torch.save(tree, tmp_path / "a.pt")
    with holdfast.open(tmp_path / "a.pt") as checkpoint:
        found = {name: checkpoint.numbers(name) for name in tree}
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "floats": [1.5, "NaN", "-Infinity"],
        "complex": [[1.0, 2.0]],
        "bool": [[True]],
        "number": 3,
        "array": [1, 2],
        "meta": None,
        "large": None,
    }


def test_a_numpy_array_is_printed_as_numpy_does(tmp_path) -> None:
    torch.save({"a": np.arange(3)}, tmp_path / "a.pt")
    with holdfast.open(tmp_path / "a.pt") as checkpoint:
        assert checkpoint.text("a") == "array([0, 1, 2])"
