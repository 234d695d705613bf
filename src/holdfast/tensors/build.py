"""Tensors from references and storages, as torch/_utils.py builds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from holdfast.errors import FormatError, RefusedError, UsageError
from holdfast.spec.dtypes import DType
from holdfast.spec.index import ChunkedRef, SparseRef, StorageRef, TensorRef

Build = Callable[[Any], Any]


class Storages(Protocol):
    """What has the storages that references name."""

    def get(self, ref: StorageRef) -> torch.UntypedStorage:
        """The storage of a reference, on its device."""


def torch_dtype(dtype: DType | str) -> torch.dtype:
    """Torch's own object for an element type.

    Raises:
        FormatError: this torch does not have it yet.
    """
    name = dtype if isinstance(dtype, str) else dtype.name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise FormatError(
            f"torch {torch.__version__} has no torch.{name}, which this file holds",
            cure="Load it with a newer torch.",
        )
    return found


def typed_storage(ref: StorageRef, storages: Storages) -> torch.TypedStorage:
    """A storage that was saved on its own, as torch.load gives it."""
    return torch.TypedStorage(
        wrap_storage=storages.get(ref), dtype=torch_dtype(ref.dtype), _internal=True
    )


def dense(ref: TensorRef, storages: Storages, build: Build) -> torch.Tensor:
    """The tensor of a reference, without its class, attributes and ``Parameter``."""
    dtype = torch_dtype(ref.dtype)
    if ref.storage is None:
        made = torch.empty_strided(ref.shape, ref.stride, dtype=dtype, device="meta")
    else:
        storage = storages.get(ref.storage)
        empty = (
            torch.empty((0,), dtype=dtype, device=storage.device)
            if ref.quantizer is None
            else _quantized_on(ref, dtype, storage.device, build)
        )
        made = empty.set_(storage, ref.offset, ref.shape, ref.stride)
    bits = [name for name, is_set in (("conj", ref.is_conj), ("neg", ref.is_neg)) if is_set]
    if bits:
        torch._utils.set_tensor_metadata(made, dict.fromkeys(bits, True))
    if ref.requires_grad:
        made.requires_grad = True
    return made


def chunked(ref: ChunkedRef, storages: Storages, build: Build) -> torch.Tensor:
    """The whole tensor of a reference whose pieces tile it."""
    pieces = [dense(chunk.ref, storages, build) for chunk in ref.chunks]
    device = pieces[0].device if pieces else torch.device("cpu")
    made = torch.empty(ref.shape, dtype=torch_dtype(ref.dtype), device=device)
    for chunk, piece in zip(ref.chunks, pieces, strict=True):
        box = tuple(
            slice(at, at + size) for at, size in zip(chunk.offsets, piece.shape, strict=True)
        )
        made[box].copy_(piece)
    if ref.requires_grad:
        made.requires_grad = True
    return made


def _quantized_on(
    ref: TensorRef, dtype: torch.dtype, device: torch.device, build: Build
) -> torch.Tensor:
    try:
        return _quantized(ref, dtype, device, build)
    except NotImplementedError as error:
        raise UsageError(
            f"torch has no quantized tensors on {str(device)!r}",
            found=str(error).splitlines()[0][:200],
            cure='Load with map_location="cpu", the default.',
        ) from error


def _quantized(
    ref: TensorRef, dtype: torch.dtype, device: torch.device, build: Build
) -> torch.Tensor:
    quantizer = ref.quantizer
    assert quantizer is not None
    if quantizer.axis is None:
        return torch._empty_affine_quantized(
            [0],
            scale=quantizer.scale,
            zero_point=quantizer.zero_point,
            dtype=dtype,
            device=device,
        )
    is_float = quantizer.scheme.endswith("float_qparams")
    kinds = (torch.float32, torch.float32) if is_float else (torch.float64, torch.int64)
    scales, zero_points = (
        torch.tensor(numbers, dtype=kind, device=device)
        if isinstance(numbers, list)
        else build(numbers)
        for numbers, kind in zip((quantizer.scale, quantizer.zero_point), kinds, strict=True)
    )
    return torch._empty_per_channel_affine_quantized(
        ref.shape,
        scales=scales,
        zero_points=zero_points,
        axis=quantizer.axis,
        dtype=dtype,
        device=device,
    )


def sparse(ref: SparseRef, build: Build, *, file: str) -> torch.Tensor:
    """The sparse tensor of a reference, its indices checked against its shape.

    Raises:
        RefusedError: an index is out of range, or the parts do not fit each other.
    """
    parts = {name: build(part) for name, part in ref.components.items()}
    # The meta device has no values to check.
    options: Any = {"check_invariants": not any(part.is_meta for part in parts.values())}
    options["device"] = parts["values"].device  # not that which is the default just now
    try:
        if ref.layout == "sparse_coo":
            made = torch.sparse_coo_tensor(
                parts["indices"],
                parts["values"],
                ref.shape,
                is_coalesced=ref.is_coalesced,
                **options,
            )
        else:
            compressed, plain, values = parts.values()
            made = torch.sparse_compressed_tensor(
                compressed,
                plain,
                values,
                ref.shape,
                layout=getattr(torch, ref.layout),
                **options,
            )
    except (RuntimeError, ValueError, IndexError) as error:
        raise RefusedError(
            "refused: the indices of a sparse tensor lie inside its shape and fit its values",
            file=file,
            wanted=f"{ref.layout} {tuple(ref.shape)}",
            found=str(error).splitlines()[0][:200],
            cure="The file is broken, or made to do harm: do not load it with anything else.",
        ) from error
    if ref.requires_grad:
        made.requires_grad = True
    return made
