"""The table of element types, with torch, NumPy and safetensors as oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.spec import dtypes


def torch_dtypes() -> dict[str, torch.dtype]:
    found = {v for v in vars(torch).values() if isinstance(v, torch.dtype)}
    return {str(d).removeprefix("torch."): d for d in found}


def test_the_table_holds_every_dtype_of_torch_with_its_size() -> None:
    theirs = torch_dtypes()
    assert theirs.keys() <= dtypes.BY_NAME.keys()
    for name, dtype in theirs.items():
        ours = dtypes.BY_NAME[name]
        assert ours.itemsize == dtype.itemsize, name
        assert ours.is_complex == dtype.is_complex


def test_storage_classes_are_those_torch_pickles() -> None:
    theirs = {
        str(dtype).removeprefix("torch."): name
        for dtype, name in torch.storage._dtype_to_storage_type_map().items()
    }
    ours = {d.name: d.storage_class for d in dtypes.BY_NAME.values() if d.storage_class}
    assert ours == theirs


@pytest.mark.parametrize("dtype", [d for d in dtypes.BY_NAME.values() if d.numpy_name])
def test_numpy_names_have_the_same_size(dtype: dtypes.DType) -> None:
    assert dtype.numpy().itemsize == dtype.itemsize


def test_numpy_reads_the_numbers_torch_wrote() -> None:
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "int16", "complex64"):
        tensor = torch.tensor([0.5, 1.0, -2.0]).to(torch_dtypes()[name])
        raw = tensor.view(torch.uint8).numpy().tobytes()
        array = np.frombuffer(raw, dtypes.BY_NAME[name].numpy())
        assert array.astype(np.complex128).tolist() == tensor.to(torch.complex128).tolist()


def test_a_type_numpy_lacks_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"NumPy has no type for torch\.bits8"):
        dtypes.BY_NAME["bits8"].numpy()
