"""One process's file of a folder, copied into memory: filled while the training waits."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from holdfast.formats.dcp.write import Slice
from holdfast.io.arena import SEGMENT, Arena
from holdfast.io.checksum import crc32
from holdfast.io.sink import Sink
from holdfast.saving.copied import Copied
from holdfast.saving.sliced import Sliced, flat_bytes, whole_crc


class SlicedImage(Copied):
    """The bytes of a planned file in an arena, copied from the live tensors when this is made.

    What depends on checksums is put in later, while it is written.
    """

    def __init__(self, planned: Sliced, arena: Arena) -> None:
        super().__init__(arena, planned.nbytes)
        self._planned = planned
        try:
            for (each, local), at in zip(planned.slices, self._starts(), strict=True):
                begin = at + len(each.head)
                self._memory[at:begin] = each.head
                self._copy(begin, flat_bytes(local))
            self._devices.queued()
        except BaseException:
            self._devices.wait()  # what is on its way must not land in the next image
            raise
        at = planned.nbytes
        for value in reversed(planned.values):
            self._memory[at - len(value) : at] = value
            at -= len(value)

    def _copy(self, at: int, flat: torch.Tensor) -> None:
        self._put(at, flat.numel(), flat.device, flat.data_ptr(), lambda: flat)

    def _starts(self) -> Iterator[int]:
        at = 0
        for each, _ in self._planned.slices:
            yield at
            at += each.whole_nbytes

    def fill(self, sink: Sink) -> None:
        """Put in what is missing, front to back, and hand on all that is complete."""
        self._begin(sink)
        done = 0
        for (each, _), at in zip(self._planned.slices, self._starts(), strict=True):
            crc, done = self._checked(sink, done, each, at + len(each.head))
            tail = each.tail(crc)
            end = at + each.whole_nbytes
            self._memory[end - len(tail) : end] = tail
            self._planned.crcs.append(whole_crc(each, crc, tail))
        self._planned.crcs.extend(map(crc32, self._planned.values))
        sink.lasting(self._memory[done:])

    def _checked(self, sink: Sink, done: int, each: Slice, at: int) -> tuple[int, int]:
        """The CRC-32 of a slice's elements; what is complete before them and of them goes on."""
        crc, end = 0, at + each.nbytes
        for start in range(at, end, SEGMENT):
            stop = min(start + SEGMENT, end)
            crc = crc32(self._memory[start:stop], crc)
            done = self._hand_on(sink, done, stop)
        return crc, done
