"""A checkpoint's file in memory: filled while the training waits, written while it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch

from holdfast.errors import CaptureError
from holdfast.formats.torch_zip import write
from holdfast.io.arena import SEGMENT, Arena
from holdfast.io.checksum import crc32
from holdfast.io.sink import Sink
from holdfast.saving.copied import Copied
from holdfast.saving.overlap import Copies, Later
from holdfast.saving.planned import Planned
from holdfast.tensors import encode


class Image(Copied):
    """The bytes of a planned file in an arena, copied from the live state when this is made.

    Headers, checksums and the directory are put in later, while it is written: none of them needs
    the live state. So are the storages that may be copied ``later``, unless ``copy_rest`` comes
    first.
    """

    def __init__(
        self, planned: Planned, arena: Arena, later: Mapping[int, Later] | None = None
    ) -> None:
        super().__init__(arena, planned.nbytes)
        self._layout = planned.layout
        self._before = list(planned.small_before())
        self._behind = list(planned.small_behind())
        first = len(self._before)
        self._places = dict(zip(planned.keys, self._layout.members[first:], strict=False))
        self._copies = Copies(later or {})
        try:
            for key in planned.keys:
                if not later or key not in later:
                    self._copy(key, planned.encoded.storages[key])
            self._devices.queued()
        except BaseException:
            self._devices.wait()  # what is on its way must not land in the next image
            raise

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
        address = storage.data_ptr()
        return self._put(at, nbytes, storage.device, address, lambda: encode.flat(storage))

    def fill(self, sink: Sink) -> None:
        """Put in what is missing, front to back, and hand on all that is complete."""
        self._begin(sink)
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
