"""ONNX models through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from holdfast.errors import FormatError, UsageError
from holdfast.programs.devices import parsed
from holdfast.programs.onnx_file import missing_extra
from holdfast.programs.saying import said

#: What ONNX Runtime calls the types of tensors, by torch's name.
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
    **{
        f"tensor({kind}{bits})": f"{kind}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}


def providers_for(device: str, providers: Sequence[str] | None) -> list[str]:
    """Where ONNX Runtime is to run: as asked for, else by the device.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        UsageError: this build of it has no such provider.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing_extra("onnxruntime") from error
    there = onnxruntime.get_available_providers()
    by_device = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    kind = parsed(device).type
    wanted = list(providers) if providers is not None else [by_device.get(kind, kind)]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UsageError(
            "ONNX Runtime cannot run it there",
            wanted=missing[0],
            found=f"this build has {', '.join(there)}",
            cure="For NVIDIA: pip install onnxruntime-gpu. Or choose one it has: providers=[...].",
        )
    return wanted


def session(path: Path, providers: list[str]) -> Any:
    """A session for a model file.

    Raises:
        FormatError: ONNX Runtime does not take it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it raises what fails, and warns of its own optimisations
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors share no class
        raise FormatError(
            "ONNX Runtime does not take this model",
            file=path,
            found=said(error),
            cure="holdfast show says what is in it; or export it anew.",
        ) from error


def ports_of(nodes: Sequence[Any]) -> list[tuple[str, str | None, tuple[int | str | None, ...]]]:
    """Name, dtype and shape of a session's inputs or outputs."""
    return [(each.name, _DTYPES.get(each.type), tuple(each.shape or ())) for each in nodes]


def run(session: Any, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs, in order, on the CPU."""
    feed = {name: _value(tensor) for name, tensor in zip(names, tensors, strict=True)}
    outputs = [each.name for each in session.get_outputs()]
    types = {each.type for each in (*session.get_inputs(), *session.get_outputs())}
    if "tensor(bfloat16)" not in types:  # which NumPy has no type for
        return [_tensor(array) for array in session.run(outputs, feed)]
    return [_tensor_of(value) for value in session.run_with_ort_values(outputs, _values(feed))]


def _value(tensor: torch.Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype is torch.bfloat16:
        return _bfloat16(tensor)
    return tensor.numpy()


def _bfloat16(tensor: torch.Tensor) -> Any:
    import onnxruntime
    from onnx import TensorProto

    bits = tensor.view(torch.uint16).numpy()
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)


def _values(feed: dict[str, Any]) -> dict[str, Any]:
    import onnxruntime

    make = onnxruntime.OrtValue.ortvalue_from_numpy
    return {k: make(v) if isinstance(v, np.ndarray) else v for k, v in feed.items()}


def _tensor_of(value: Any) -> torch.Tensor:
    if value.data_type() == "tensor(bfloat16)":
        from torch.utils.dlpack import from_dlpack

        made: torch.Tensor = from_dlpack(value._ortvalue.to_dlpack())
        return made.clone()
    return _tensor(value.numpy())


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # of our own: the runtime may use its memory again
