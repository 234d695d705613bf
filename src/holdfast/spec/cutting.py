"""A box of a tensor that is not yet read, as a reference of its own."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.spec.index import Chunk, ChunkedRef, TensorRef

#: From where to where along each axis.
Window = Sequence[tuple[int, int]]


def cut(ref: TensorRef, window: Window) -> TensorRef:
    """The elements of a plain tensor inside a window."""
    starts = zip(window, ref.stride, strict=True)
    offset = ref.offset + sum(start * step for (start, _), step in starts)
    shape = tuple(stop - start for start, stop in window)
    made = TensorRef(ref.dtype, shape, ref.stride, ref.storage, offset)
    made.is_conj, made.is_neg = ref.is_conj, ref.is_neg
    return made


def meeting(chunk: Chunk, window: Window) -> list[tuple[int, int]] | None:
    """Where a window and a piece of a tensor meet, in the whole's places; None where nowhere."""
    ends = zip(window, chunk.offsets, chunk.ref.shape, strict=True)
    meets = [(max(a, at), min(b, at + size)) for (a, b), at, size in ends]
    return None if any(low >= high for low, high in meets) else meets


def within(chunk: Chunk, meets: Window) -> TensorRef:
    """The elements of a piece where it meets a window."""
    places = zip(meets, chunk.offsets, strict=True)
    return cut(chunk.ref, [(low - at, high - at) for (low, high), at in places])


def boxed(ref: TensorRef | ChunkedRef, window: Window) -> TensorRef | ChunkedRef:
    """The elements of a tensor inside a window; where that is all of it, the tensor itself."""
    if all(span == (0, size) for span, size in zip(window, ref.shape, strict=True)):
        return ref
    shape = tuple(stop - start for start, stop in window)
    if isinstance(ref, TensorRef):
        return cut(ref, window)
    chunks = []
    for chunk in ref.chunks:
        meets = meeting(chunk, window)
        if meets is not None:
            offsets = tuple(low - a for (low, _), (a, _) in zip(meets, window, strict=True))
            chunks.append(Chunk(offsets, within(chunk, meets)))
    return ChunkedRef(ref.dtype, shape, tuple(chunks))
