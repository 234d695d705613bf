"""Where the bytes of ONNX tensors lie: in the model's file, or in a file beside it."""

from __future__ import annotations

from pathlib import Path

from holdfast.errors import FormatError, NoCheckpointError, TruncatedError
from holdfast.formats.onnx_tensor import Proto, Shape, is_one_place, number_field, wrong_size
from holdfast.formats.onnx_values import Values
from holdfast.formats.protobuf import BYTES, Walker
from holdfast.io.source import Folder, Memory, Source
from holdfast.spec.index import Extent

#: Six bits: as raw bytes four in three, as numbers one in each.
_SIX_BITS = (27, 28)


class Places:
    """Finds the extent of each tensor; numbers that are no raw bytes are unpacked into memory."""

    def __init__(self, walker: Walker) -> None:
        self._walker, self._source = walker, walker.source
        self._values = Values(walker)
        self._memory = f"{self._source.name} (numbers in fields)"
        self._folder: Folder | None = None

    def find(self, proto: Proto, shape: Shape) -> Extent:
        """Where a tensor's bytes lie; exactly as many as its elements take.

        Raises:
            RefusedError: there are more, fewer, or bytes in two places.
            FormatError: the file beside the model cannot be had.
        """
        if not is_one_place(proto):
            raise self._walker.refused("a tensor's bytes are in one place", tensor=proto.name)
        if proto.is_external:
            return self._beside(proto, shape)
        if proto.raw is not None:
            at, nbytes, file = self._source.origin + proto.raw.start, proto.raw.nbytes, None
        else:
            at, nbytes, file = self._numbers(proto)
        if nbytes != shape.nbytes:
            raise wrong_size(self._walker, proto, shape, nbytes)
        return Extent(file or self._source.name, at, nbytes, None, proto.name)

    def close(self) -> None:
        """Hand what was unpacked to the source, which keeps it."""
        self._source.adopt(Memory(self._values.data, self._memory))

    def _numbers(self, proto: Proto) -> tuple[int, int, str | None]:
        number, kind = number_field(proto)
        fields = proto.numbers.get(number, [])
        if proto.numbers and number not in proto.numbers:
            raise self._walker.refused("a tensor's numbers fit its type", tensor=proto.name)
        if kind[0] == "f":
            if len(fields) == 1 and fields[0].wire == BYTES:  # packed: they are raw bytes after all
                return self._source.origin + fields[0].start, fields[0].nbytes, None
            return *self._values.add_raw(fields, int(kind[1]), proto.name), self._memory
        if proto.data_type in _SIX_BITS and fields:
            raise self._walker.refused("numbers of six bits are raw bytes", tensor=proto.name)
        return *self._values.add(fields, kind, proto.name), self._memory

    def _beside(self, proto: Proto, shape: Shape) -> Extent:
        told = self._told(proto)
        offset, length = (self._number(proto, told, key) for key in ("offset", "length"))
        if length is not None and length != shape.nbytes:
            raise wrong_size(self._walker, proto, shape, length)
        source = self._open(proto, told.get("location", ""))
        end = (offset or 0) + shape.nbytes
        if end > source.size:
            raise TruncatedError(
                "the file with the weights of this model ends too early",
                file=source.name,
                tensor=proto.name[:200],
                wanted=f"at least {end:,} bytes",
                found=f"{source.size:,}",
                cure="It was not written or copied to its end: get it again.",
            )
        return Extent(source.name, offset or 0, shape.nbytes, None, proto.name)

    def _told(self, proto: Proto) -> dict[str, str]:
        told: dict[str, str] = {}
        for entry in proto.external:
            pair = {1: "", 2: ""}
            for each in self._walker.fields(entry.start, entry.end):
                if each.wire == BYTES:
                    pair[each.number] = self._walker.text(each)
            if pair[1] in told:
                raise self._walker.refused(
                    "the place of a tensor is given once", tensor=proto.name, found=ascii(pair[1])
                )
            told[pair[1]] = pair[2]
        return told

    def _number(self, proto: Proto, told: dict[str, str], key: str) -> int | None:
        text = told.get(key)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise self._walker.refused(
                f"the {key} of a tensor in another file is a whole number",
                tensor=proto.name,
                found=ascii(text)[:50],
            )
        return int(text)

    def _open(self, proto: Proto, location: str) -> Source:
        if self._source.path is None:
            raise FormatError(
                "the weights of this model lie in a file beside it",
                file=self._source.name,
                tensor=proto.name[:200],
                wanted=ascii(location)[:200],
                cure="Give the path of the model, not an open file.",
            )
        if self._folder is None:
            self._folder = Folder(str(Path(self._source.path).parent))
        try:
            return self._source.adopt(self._folder.open(location.removeprefix("./")))
        except NoCheckpointError as error:
            raise FormatError(
                "the weights of this model lie in a file that is not there",
                file=self._source.name,
                tensor=proto.name[:200],
                wanted=ascii(location)[:200],
                cure="Copy it into the folder of the model.",
            ) from error
