"""Weights and constants of an exported program, one member each, as its JSON describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.errors import RefusedError
from holdfast.formats import strict_json
from holdfast.formats.torch_zip import read as torch_zip
from holdfast.formats.torch_zip.archive import Archive
from holdfast.formats.zip_archive import LARGEST_PICKLE, Member
from holdfast.io.source import Source
from holdfast.pickles import checks, jit
from holdfast.pickles.machine import Machine
from holdfast.pickles.reader import read
from holdfast.spec.dtypes import BY_NAME, DType
from holdfast.spec.index import Extent, StorageRef, TensorRef

#: torch._export.serde.schema.ScalarType; never renumbered, as files carry these numbers.
_TYPES = {
    **dict(enumerate(("uint8", "int8", "int16", "int32", "int64"), start=1)),
    **dict(enumerate(("float16", "float32", "float64"), start=6)),
    **dict(enumerate(("complex32", "complex64", "complex128", "bool", "bfloat16"), start=9)),
    **dict(enumerate(("uint16", "float8_e4m3fn", "float8_e5m2"), start=28)),
    **dict(enumerate(("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), start=31)),
    **dict(enumerate(("uint32", "uint64"), start=34)),
}
_STRIDED = 7


class Payloads:
    """What the members of a program hold, collected while they are read."""

    def __init__(self, archive: Archive, encoding: str) -> None:
        self._archive, self._encoding = archive, encoding
        self._storages: dict[str, StorageRef] = {}
        self._hollow = 0
        self.extents: dict[str, Extent] = {}
        self.other: list[Extent] = []
        self.symbols: dict[str, None] = {}
        self.used: set[str] = set()

    def notes(self) -> list[str]:
        """What is to be said of them beyond the tree."""
        if not self._hollow:
            return []
        return [f"{self._hollow} of the tensors have a shape and no bytes: torch fills in zeros"]

    def read(self, config: Member, folder: str) -> dict[str, Any]:
        """The weights or constants that a config names, by their names.

        Raises:
            FormatError: it is no such JSON.
            RefusedError: a tensor does not fit its member.
        """
        what = "the description of this program's weights"
        data = self._archive.data(config, what=what)
        values = strict_json.decode(
            data, what=what, file=self._archive.source.name, member=config.name
        )
        m = Machine(data, persistent=_no_ids, file=self._archive.source.name, member=config.name)
        entries = _fields(m, values, "config")["config"]
        if not isinstance(entries, dict):
            raise m.refused("a program's weights have names", found=m.shown(entries))
        return {name: self._named(m, name, entry, folder) for name, entry in entries.items()}

    def _named(self, m: Machine, name: str, entry: Any, folder: str) -> Any:
        try:
            return self._entry(m, entry, folder)
        except RefusedError as error:
            error.tensor = error.tensor or name[:200]
            raise

    def _entry(self, m: Machine, entry: Any, folder: str) -> Any:
        fields = _fields(m, entry, "path_name", "is_param", "use_pickle", "tensor_meta")
        path = fields["path_name"]
        member = self._archive.find(f"{folder}/{path}") if isinstance(path, str) else None
        if member is None:
            raise m.refused("every weight is in the archive", found=f"none for {m.shown(path)}")
        if checks.flag(m, fields["use_pickle"], "use_pickle"):
            return self._object(member)
        return self._tensor(m, fields, member)

    def _tensor(self, m: Machine, fields: Mapping[str, Any], member: Member) -> TensorRef:
        names = ("dtype", "sizes", "strides", "storage_offset", "requires_grad", "layout")
        meta = _fields(m, fields["tensor_meta"], *names, "device")
        dtype = _dtype(m, meta["dtype"])
        if meta["layout"] != _STRIDED:
            raise m.refused("raw weights are strided", found=f"layout {m.shown(meta['layout'])}")
        size, stride = (_integers(m, meta[name]) for name in ("sizes", "strides"))
        offset = _integer(m, meta["storage_offset"])
        ref = self._view(m, dtype, member, (offset, size, stride), _device(m, meta["device"]))
        ref.is_parameter = checks.flag(m, fields["is_param"], "is_param")
        ref.requires_grad = checks.gradient(m, meta["requires_grad"], dtype)
        return ref

    def _view(
        self, m: Machine, dtype: DType, member: Member, view: tuple[Any, ...], device: str
    ) -> TensorRef:
        if member.nbytes == 0:  # torch saves so a tensor that never had any values
            room = StorageRef("", BY_NAME["uint8"], (1 << 63) - 1)
            ref = checks.view(m, dtype, room, *view)
            ref.storage = None if ref.numel else self._storage(m, member, device)
            self._hollow += 1 if ref.numel else 0
            return ref
        return checks.view(m, dtype, self._storage(m, member, device), *view)

    def _storage(self, m: Machine, member: Member, device: str) -> StorageRef:
        """The storage that a member is: bytes, as several tensors of any type may share it."""
        key = self._archive.short(member)
        if not member.is_stored:
            raise m.refused("storages are not compressed", found=f"{key} is")
        if key not in self._storages:
            self._storages[key] = StorageRef(
                key, BY_NAME["uint8"], member.nbytes, device, is_untyped=True
            )
            self.extents[key] = self._archive.extent(member)
            self.used.add(member.name)
        return self._storages[key]

    def _object(self, member: Member) -> Any:
        """A pickled weight or constant; objects in it stay data."""
        if member.name.rpartition("/")[2].startswith("opaque_obj_"):
            return self._plain_pickle(member)
        return self.torch_file(member)

    def torch_file(self, member: Member) -> Any:
        """The tree of a torch file that is a member."""
        index = torch_zip.read_index(
            self._window(member),
            encoding=self._encoding,
            within=f"{member.name}/",
            calls=jit.CALLS,
        )
        self.extents.update(index.extents)
        self.other += index.other
        self.symbols.update(dict.fromkeys(index.symbols))
        return index.tree

    def _plain_pickle(self, member: Member) -> Any:
        what = "a pickled constant of this program"
        data = self._archive.data(member, what=what, most=LARGEST_PICKLE)
        pickled = read(
            data,
            persistent=_no_ids,
            encoding=self._encoding,
            file=self._archive.source.name,
            member=member.name,
        )
        self.symbols.update(dict.fromkeys(pickled.symbols))
        return pickled.tree

    def look_into(self, member: Member) -> None:
        """Collect the symbols of a torch file that is no part of the tree."""
        if member.nbytes:
            index = torch_zip.read_index(self._window(member), within=f"{member.name}/")
            self.symbols.update(dict.fromkeys(index.symbols))

    def _window(self, member: Member) -> Source:
        if not member.is_stored:
            raise RefusedError(
                "refused: torch files in an archive are not compressed",
                file=self._archive.source.name,
                member=member.name,
                cure="The archive was packed anew: unpack and store it, or export anew.",
            )
        return self._archive.source.window(member.offset, member.nbytes)


def _no_ids(m: Machine, pid: Any) -> Any:
    raise m.refused("a plain pickle names no storages", found=m.shown(pid))


def _fields(m: Machine, value: Any, *names: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(name in value for name in names):
        raise m.refused("a weight is described whole", wanted=", ".join(names))
    return value


def dtype_name(number: Any) -> str | None:
    """Torch's name of a ScalarType; None for one that is not known."""
    return _TYPES.get(number) if type(number) is int else None


def _dtype(m: Machine, value: Any) -> DType:
    if type(value) is not int or value not in _TYPES:
        raise m.refused("an element type is one of torch.export's", found=m.shown(value))
    return BY_NAME[_TYPES[value]]


def _integers(m: Machine, values: Any) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise m.refused("a tensor's sizes and strides are lists", found=m.shown(values))
    return tuple(_integer(m, value) for value in values)


def _integer(m: Machine, value: Any) -> int:
    if not isinstance(value, dict) or type(value.get("as_int")) is not int:
        raise m.refused("the sizes of a weight are whole numbers", found=m.shown(value))
    return int(value["as_int"])


def _device(m: Machine, value: Any) -> str:
    kind, index = (
        (value.get(key) for key in ("type", "index")) if isinstance(value, dict) else (None, None)
    )
    if type(kind) is not str or len(kind) > 32:
        raise m.refused("a device has a name", found=m.shown(value))
    return kind if index is None else f"{kind}:{index}"[:40]
