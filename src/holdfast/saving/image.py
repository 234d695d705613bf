"""A checkpoint's file in memory: filled while the training waits, written while it goes on."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import cast

import torch

from holdfast.errors import CaptureError
from holdfast.formats.torch_zip import write
from holdfast.io.arena import SEGMENT, Arena
from holdfast.io.checksum import crc32
from holdfast.io.sink import Sink
from holdfast.saving.devices import DeviceCopies
from holdfast.saving.overlap import Copies, Later
from holdfast.saving.planned import Planned
from holdfast.tensors import encode

#: Storages from this size on are copied by torch's threads; smaller ones by one call each.
_LARGE = 1 << 20


class Image:
    """The bytes of a planned file in an arena, copied from the live state when this is made.

    Headers, checksums and the directory are put in later, while it is written: none of them needs
    the live state. So are the storages that may be copied ``later``, unless ``copy_rest`` comes
    first.
    """

    def __init__(
        self, planned: Planned, arena: Arena, later: Mapping[int, Later] | None = None
    ) -> None:
        self._layout, self.nbytes = planned.layout, planned.nbytes
        self._memory = arena.memory[: planned.nbytes]
        self._before = list(planned.small_before())
        self._behind = list(planned.small_behind())
        self._sink: Sink | None = None
        first = len(self._before)
        self._places = dict(zip(planned.keys, self._layout.members[first:], strict=False))
        with torch.inference_mode(False):  # else nothing could be copied into it outside
            self._whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._copies = Copies(later or {})
        self._devices = DeviceCopies()
        try:
            for key in planned.keys:
                if not later or key not in later:
                    self._copy(key, planned.encoded.storages[key])
            self._devices.queued()
        except BaseException:
            self._devices.wait()  # what is on its way must not land in the next image
            raise

    @property
    def progress(self) -> float:
        """The share of the bytes that the system has, 0.0 to 1.0."""
        return 0.0 if self._sink is None else self._sink.flushed / max(1, self.nbytes)

    def end(self) -> None:
        """Return when nothing is copied into the memory any more, whatever became of the save."""
        self._devices.wait()

    def copy_rest(self) -> None:
        """Copy what is not copied yet: the live state is about to change."""
        self._copies.make_all(self._copy)

    def _copy(self, key: int, storage: torch.UntypedStorage) -> memoryview:
        member = self._places[key]
        at, nbytes = member.data_offset, member.nbytes
        if storage.nbytes() != nbytes:
            raise CaptureError(
                "a storage changed its size between the save and its copy",
                wanted=f"{nbytes:,} bytes",
                found=f"{storage.nbytes():,}",
                cure='Save with background=True, not "overlap": then all is copied at the call.',
            )
        if storage.device.type == "cuda":
            self._devices.copy(self._whole[at : at + nbytes], encode.flat(storage))
        elif storage.device.type != "cpu" or nbytes >= _LARGE:
            self._whole[at : at + nbytes].copy_(encode.flat(storage))
        elif nbytes:
            ctypes.memmove(self._whole.data_ptr() + at, storage.data_ptr(), nbytes)
        return self._memory[at : at + nbytes]

    def fill(self, sink: Sink) -> None:
        """Put in what is missing, front to back, and hand on all that is complete."""
        self._sink = sink
        self._devices.wait()
        memory, crcs, done = self._memory, dict[str, int](), 0
        for key, member, payload in self._members():
            if key is not None:
                self._copies.make(key, self._copy)
            memory[member.header_offset : member.data_offset] = write.local_header(member)
            if payload is not None:
                data = payload(crcs) if callable(payload) else cast(bytes, payload)
                memory[member.data_offset : member.data_offset + member.nbytes] = data
            crc, end = 0, member.data_offset + member.nbytes
            for start in range(member.data_offset, end, SEGMENT):
                stop = min(start + SEGMENT, end)
                crc = crc32(memory[start:stop], crc)
                done = self._hand_on(sink, done, stop)
            crcs[member.name] = crc
            memory[end : member.end] = write.descriptor(member, crc)
        self._copies.end()
        memory[self._layout.directory_offset :] = write.directory(self._layout, crcs)
        sink.lasting(memory[done:])

    def _members(self) -> Iterator[tuple[int | None, write.Member, write.Payload | None]]:
        """Each member: with its key where it is a storage, else with its bytes."""
        members, last = self._layout.members, len(self._before) + len(self._places)
        for member, data in zip(members, self._before, strict=False):
            yield None, member, data
        for key, member in self._places.items():
            yield key, member, None
        for member, payload in zip(members[last:], self._behind, strict=True):
            yield None, member, payload

    def _hand_on(self, sink: Sink, done: int, complete: int) -> int:
        complete -= complete % SEGMENT
        if complete > done:
            sink.lasting(self._memory[done:complete])
        return max(done, complete)
