"""From any readable checkpoint to weights: choose, rename, plan, write."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.arrays.read import Reader
from holdfast.converting import dcp_folder, safetensors_file, torch_file, types
from holdfast.converting.items import Elements, Item, check_for_torch, items_of
from holdfast.converting.report import ConvertReport
from holdfast.converting.select import weights_of
from holdfast.converting.tree import Rebuilt
from holdfast.errors import UsageError
from holdfast.formats.torch_zip.members import root_name
from holdfast.io.commit import Fill, commit
from holdfast.io.commit_folder import commit_folder
from holdfast.io.sink import Buffer
from holdfast.io.source import Source
from holdfast.pickles.modules import flags, with_state_dicts
from holdfast.spec import record as records
from holdfast.spec.index import Index
from holdfast.spec.record import Record
from holdfast.spec.rename import Rules, rename

_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_SAFE = ".safetensors"


@dataclass(frozen=True, slots=True)
class Options:
    """What ``convert`` was asked for; see ``holdfast.convert``."""

    part: str | None = None
    dtype: str | None = None
    rules: Rules | None = None
    shard_size: str | int | None = None
    is_plain: bool = False
    is_dry_run: bool = False

    @property
    def wants_weights(self) -> bool:
        """Whether one state dict is asked for, not the whole checkpoint."""
        return bool(self.part or self.dtype or self.rules or self.is_plain)


def convert(index: Index, source: Source, target: Path, options: Options) -> ConvertReport:
    """Write what the index describes to ``target``; its suffix says in which format.

    Raises:
        UsageError: the options do not fit the target, or the tensors not the format.
        DamagedError: the source's bytes are not those that were saved; nothing was written.
        FileError: the file system said no; what was there before is untouched.
    """
    check(target, options)
    try:
        return _converted(index, source, target, options)
    except UsageError as error:
        error.file = error.file or index.file
        raise


def _converted(index: Index, source: Source, target: Path, options: Options) -> ConvertReport:
    tree = with_state_dicts(index.tree, file=index.file)
    notes = (*index.notes, *flags(index.tree, file=index.file))
    elements = Elements(Reader(index, source))
    if _is_torch(target) and not options.wants_weights:
        report = _whole(index, tree, target, elements, options)
    elif _is_dcp(target) and not options.wants_weights:
        planned = dcp_folder.whole(tree, index.file)
        report = _folder(index, planned, None, target, elements, options)
    else:
        report = _weights(index, tree, target, elements, options)
    if _is_torch(target) and (own := _own_metadata(index)):
        notes = (*notes, f"the metadata has no place in a torch file: {', '.join(own)[:200]}")
    return replace(report, notes=(*notes, *report.notes), unfit=dict(elements.unfit))


def check(target: Path, options: Options) -> None:
    """Go on only with options that go together.

    Raises:
        UsageError: they do not.
    """
    if options.shard_size is not None and target.suffix:
        raise UsageError(
            "shards are written into a folder of their own",
            wanted="a path without suffix",
            found=str(target),
            cure=f"Try {str(target.with_suffix(''))!r}.",
        )
    if options.is_plain and not _is_torch(target):
        raise UsageError("plain= is for .pt files", found=str(target))
    known = (*_TORCH, _SAFE, dcp_folder.SUFFIX)
    if options.shard_size is None and target.suffix not in known:
        raise UsageError(
            "the suffix says in which format to write, and this one says none",
            wanted=f"{_SAFE}, {', '.join(_TORCH)}; {dcp_folder.SUFFIX} for a folder of "
            "torch.distributed.checkpoint; with shard_size a folder of safetensors",
            found=str(target),
        )


def _is_torch(target: Path) -> bool:
    return target.suffix in _TORCH


def _is_dcp(target: Path) -> bool:
    return target.suffix == dcp_folder.SUFFIX


def _folder(
    index: Index,
    planned: dcp_folder.DcpFolder,
    part: str | None,
    target: Path,
    elements: Elements,
    options: Options,
) -> ConvertReport:
    items = tuple(planned.items)
    check_for_torch(items, index.file)
    record = records.encode(_record(index, is_whole=part is None and not options.wants_weights))
    files = planned.write(target, record, None if options.is_dry_run else elements)
    report = _report(index, "dcp", part, files, items, options)
    notes = tuple(f"{name} was {what}" for name, what in planned.changed.items())
    return replace(report, left_out=tuple(planned.left_out), notes=notes)


def _whole(
    index: Index, tree: Any, target: Path, elements: Elements, options: Options
) -> ConvertReport:
    rebuilt = Rebuilt(tree, index.file)
    check_for_torch(rebuilt.items, index.file)
    files = _put_torch(index, rebuilt.tree, rebuilt.storages, target, elements, options)
    report = _report(index, "torch_zip", None, files, tuple(rebuilt.items), options)
    notes = tuple(f"{name} was {what}" for name, what in rebuilt.changed.items())
    return replace(report, left_out=tuple(rebuilt.left_out), notes=notes)


def _weights(
    index: Index, tree: Any, target: Path, elements: Elements, options: Options
) -> ConvertReport:
    chosen = weights_of(tree, index, options.part)
    names: Mapping[str, str] = {name: name for name in chosen.tensors}
    if options.rules:
        names = rename(chosen.tensors, options.rules).names
    _only_names_of_their_own(names, chosen.bracketed, index.file)
    items = items_of(chosen.tensors, names, types.parse(options.dtype), index.file)
    if _is_dcp(target):
        planned = dcp_folder.weights(items, index.file)
        report = _folder(index, planned, chosen.part, target, elements, options)
        return replace(report, left_out=chosen.left_out)
    if not _is_torch(target):
        items = safetensors_file.with_own_names(items)
    if _is_torch(target):
        check_for_torch(items, index.file)
        aside = None if options.rules or options.is_plain else chosen.aside
        files = _write_torch(index, items, aside, target, elements, options)
    elif options.shard_size is not None:
        files = _write_shards(index, items, target, elements, options)
    else:
        files = _write_safe(index, items, target, elements, options)
    kind = "torch_zip" if _is_torch(target) else "safetensors"
    report = _report(index, kind, chosen.part, files, tuple(items), options)
    classes = {item.name: getattr(item.node, "subclass", None) for item in items}
    notes = tuple(
        f"{name} was a {found.symbol}: a plain tensor now"
        for name, found in classes.items()
        if found is not None
    )
    if options.is_plain:
        notes += _unread_by_libtorch(items)
    return replace(report, left_out=chosen.left_out, notes=notes)


def _quoted(rule: str) -> str:
    """A rule as it is typed into a shell: names in brackets hold single quotes."""
    return shlex.quote(rule) if any(each in rule for each in '"$`\\\\!') else f'"{rule}"'


def _unread_by_libtorch(items: list[Item]) -> tuple[str, ...]:
    """Notes on element types younger than the reader in C++, which knows ``_rebuild_tensor_v2``."""
    found = {item.dtype.torch_name: item.name for item in items if not item.dtype.storage_class}
    return tuple(
        f"LibTorch's pickle_load does not read {kind} ({name}): convert it with --dtype"
        for kind, name in found.items()
    )


def _only_names_of_their_own(
    names: Mapping[str, str], bracketed: tuple[str, ...], file: str
) -> None:
    """Go on only if no tensor would bear a name in brackets: no other program knows such names."""
    doubled = [name for name in bracketed if names[name] == name]
    if doubled:
        raise UsageError(
            "several tensors have one name, as the keys above them hold dots or numbers",
            file=file,
            wanted="a name for each",
            found=", ".join(doubled[:5]),
            cure=f"Rename: --rename {_quoted(f'{doubled[0]} -> …')}, or take one part: --part.",
        )


def _write_torch(
    index: Index,
    items: list[Item],
    aside: Mapping[str, Any] | None,
    target: Path,
    elements: Elements,
    options: Options,
) -> dict[str, int]:
    tree, storages = torch_file.weights(items, is_plain=options.is_plain, aside=aside)
    return _put_torch(index, tree, storages, target, elements, options)


def _put_torch(
    index: Index,
    tree: Any,
    storages: torch_file.Storages,
    target: Path,
    elements: Elements,
    options: Options,
) -> dict[str, int]:
    record = records.encode(_record(index, is_whole=not options.wants_weights))
    file = torch_file.plan(tree, storages, root=root_name(str(target)), record=record)
    if not options.is_dry_run:
        commit(target, file.plan.nbytes, partial(file.fill, elements))
    return {str(target): file.plan.nbytes}


def _write_safe(
    index: Index, items: list[Item], target: Path, elements: Elements, options: Options
) -> dict[str, int]:
    file = safetensors_file.planned(items, _metadata(index))
    nbytes = file.layout.nbytes
    if not options.is_dry_run:
        commit(target, nbytes, partial(file.fill, elements), head=file.head)
    return {str(target): nbytes}


def _write_shards(
    index: Index, items: list[Item], target: Path, elements: Elements, options: Options
) -> dict[str, int]:
    limit = safetensors_file.parse_size(options.shard_size or 0)
    shards = list(safetensors_file.sharded(items, _metadata(index), limit))
    listing = safetensors_file.index_json(shards)
    plan: list[tuple[str, int, Fill, Callable[[], bytes] | None]] = [
        (name, file.layout.nbytes, partial(file.fill, elements), file.head) for name, file in shards
    ]
    plan.append(("model.safetensors.index.json", len(listing), partial(_put, listing), None))
    if not options.is_dry_run:
        commit_folder(target, plan)
    return {str(target / name): nbytes for name, nbytes, _, _ in plan}


def _put(data: bytes, sink: Callable[[Buffer], object]) -> None:
    sink(data)


def _report(
    index: Index,
    kind: str,
    part: str | None,
    files: Mapping[str, int],
    items: tuple[Item, ...],
    options: Options,
) -> ConvertReport:
    return ConvertReport(
        source=index.file,
        format_from=index.format,
        format_to=kind,
        part=part,
        files=files,
        items=items,
        is_dry_run=options.is_dry_run,
    )


def _metadata(index: Index) -> dict[str, str]:
    values = _record(index).to_json()
    known = {key: value for key, value in values.items() if value not in (None, {}, [])}
    return {**_own_metadata(index), "holdfast": json.dumps(known, ensure_ascii=False)}


def _own_metadata(index: Index) -> dict[str, str]:
    """What a safetensors file says of itself: its licence, its author. Tied names are no such."""
    if not index.format.startswith("safetensors") or not isinstance(index.tree, Mapping):
        return {}
    reserved = {*safetensors_file.RESERVED, "total_size"}  # the listing of shards counts anew
    return {
        key: text
        for key, text in index.metadata.items()
        if key not in reserved and key not in index.tree
    }


def _record(index: Index, *, is_whole: bool = False) -> Record:
    """The record of the new file: its own id, the source's as parent, its step and metrics.

    Of one that ``is_whole``, also what was said of its parts.
    """
    now = datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
    made = Record(
        id=uuid.uuid4().hex,
        time=now,
        provenance={"converted_from": Path(index.file).name, "format_from": index.format},
    )
    if index.record is None:
        return made
    found = index.record
    made = replace(made, step=found.step, parent=found.id, metrics=found.metrics)
    if not is_whole:
        return made
    return replace(made, parameters=found.parameters, converted=found.converted)
