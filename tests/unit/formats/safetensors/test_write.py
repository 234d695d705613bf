from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.formats.safetensors import write
from holdfast.spec.dtypes import BY_NAME, BY_SAFETENSORS

TYPES = [dtype.name for dtype in BY_SAFETENSORS.values() if not dtype.name.startswith("float6")]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def zeros(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    dtype = getattr(torch, name)
    numel = torch.Size(shape).numel()
    return torch.arange(numel * dtype.itemsize).to(torch.uint8).view(dtype).reshape(shape)


@st.composite
def state_dicts(draw):
    kinds = draw(st.dictionaries(NAMES.filter(lambda name: name != write.METADATA), SHAPES))
    made = {}
    for name, shape in kinds.items():
        dtype = draw(st.sampled_from(TYPES))
        made[name] = zeros(dtype, shape or ((1,) if "float4" in dtype else ()))
    return made


def written(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> bytes:
    """A file made the way a streaming writer makes it: the header, then tensor after tensor."""
    described = [
        (name, BY_NAME[str(tensor.dtype)[6:]], tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    plan = write.layout(described, metadata)
    data = bytearray(plan.header)
    for place in plan.tensors:
        assert len(data) == place.offset
        flat = tensors[place.name].reshape(-1).view(torch.uint8)
        assert (place.shape, place.nbytes) == (tuple(tensors[place.name].shape), flat.numel())
        data += bytes(flat.tolist())
    assert len(data) == plan.nbytes
    return bytes(data)


@given(state_dicts(), st.none() | st.dictionaries(NAMES, NAMES, min_size=1, max_size=1))
def test_the_bytes_are_those_that_safetensors_writes(tensors, metadata):
    assert written(tensors, metadata) == safetensors.torch.save(tensors, metadata)


@given(st.dictionaries(NAMES, NAMES, min_size=1))
def test_metadata_is_what_was_given_in_its_order(metadata):
    header = write.layout([], metadata).header
    assert list(json.loads(header[8:])["__metadata__"].items()) == list(metadata.items())
    assert len(header) % 8 == 0


def test_every_type_of_safetensors_has_its_place():
    tensors = {name: zeros(name, (2,)) for name in TYPES}
    assert written(tensors, None) == safetensors.torch.save(tensors)


def test_six_bit_numbers_fill_whole_bytes():
    six = BY_SAFETENSORS["F6_E3M2"]
    (place,) = write.layout([("six", six, (2, 4))]).tensors
    assert place.nbytes == 6
    with pytest.raises(UsageError) as caught:
        write.layout([("six", six, (2, 3))])
    assert str(caught.value) == (
        "safetensors holds whole bytes of torch.float6_e3m2fn\n"
        "  in tensor 'six'\n"
        "  found shape [2, 3]\n"
        "  Convert it to another type, or write a .pt file, which holds it as it is."
    )


@pytest.mark.parametrize(
    ("dtype", "cure"),
    [
        ("complex128", "Convert it to complex64"),
        ("complex32", "Convert it to complex64"),
        ("quint8", "Dequantize it to float32"),
        ("bits8", "View it as uint8"),
        ("int4", "Convert it to int8"),
        ("uint3", "Convert it to uint8"),
    ],
)
def test_a_type_that_safetensors_lacks_is_named(dtype, cure):
    with pytest.raises(UsageError) as caught:
        write.layout([("a.b", BY_NAME[dtype], (3,))])
    assert str(caught.value) == (
        f"safetensors has no type for torch.{dtype}\n"
        "  in tensor 'a.b'\n"
        f"  {cure}, or write a .pt file, which holds it as it is."
    )
    assert not hasattr(torch, dtype) or getattr(torch, dtype) not in safetensors.torch._SIZE


def test_a_scalar_of_packed_pairs_has_no_axis_to_count_them_along():
    with pytest.raises(UsageError, match=r"whole bytes of torch.float4_e2m1fn_x2"):
        write.layout([("a", BY_NAME["float4_e2m1fn_x2"], ())])


@pytest.mark.parametrize("name", ["twice", "__metadata__"])
def test_names_are_there_once(name):
    twice = [("twice", BY_NAME["uint8"], (1,)), (name, BY_NAME["int8"], (1,))]
    with pytest.raises(UsageError, match="has each name once") as caught:
        write.layout(twice, {})
    assert caught.value.tensor == name


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}])
def test_metadata_is_text(metadata):
    with pytest.raises(UsageError, match="maps text to text") as caught:
        write.layout([], metadata)
    assert caught.value.cure == "Write other values as JSON text."


def test_text_that_is_no_utf8_is_named():
    with pytest.raises(UsageError, match="text that UTF-8 can hold") as caught:
        write.layout([("broken\ud800", BY_NAME["uint8"], (1,))])
    assert "broken\\ud800" in caught.value.found


def test_a_header_that_no_reader_takes_is_not_written(monkeypatch):
    monkeypatch.setattr(write, "LONGEST_HEADER", 100)
    with pytest.raises(UsageError) as caught:
        write.layout([("a" * 100, BY_NAME["uint8"], (1,))])
    assert (caught.value.wanted, caught.value.found) == ("at most 100 bytes", "152")
