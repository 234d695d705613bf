"""--dtype: tensors in another type, as torch casts them."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

import holdfast
from holdfast.converting import types
from holdfast.errors import UsageError

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]


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


@pytest.mark.parametrize("options", [{}, {"plain": True}])
def test_numbers_of_six_bits_are_no_tensors_of_torch(tmp_path, options):
    header = {
        "a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [3, 7]},
    }
    text = json.dumps(header).encode()
    source = tmp_path / "a.safetensors"
    source.write_bytes(struct.pack("<Q", len(text)) + text + b"abc" + bytes(4))
    with pytest.raises(UsageError) as caught:
        holdfast.convert(source, tmp_path / "b.pt", **options)
    assert str(caught.value) == (
        "this tensor cannot stand in a file of weights\n"
        f"  in {source}, tensor 'a'\n"
        "  found float6_e2m3fn\n"
        "  Convert it: --dtype float32."
    )
    holdfast.convert(source, tmp_path / "c.pt", dtype="float32", **options)
    made = torch.load(tmp_path / "c.pt", weights_only=True)
    assert made["a"].tolist() == holdfast.open(source).array("a").astype("f4").tolist()
