"""Save and load: bytes as torch does, and live objects by name."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from holdfast.errors import DamagedError, UsageError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.verify import verify_index
from holdfast.runs import provenance, where
from holdfast.runs.reading import read_headers
from holdfast.saving.foreground import SaveInfo, save_encoded, warn_of_slices
from holdfast.saving.metrics import as_metrics
from holdfast.saving.options import refuse_not_yet
from holdfast.spec.index import Index
from holdfast.spec.record import Record
from holdfast.spec.record import encode as encode_record
from holdfast.state.capture import capture, check
from holdfast.state.describe import Description, describe_parts
from holdfast.state.match import match
from holdfast.state.parts import Part, as_parts
from holdfast.state.report import LoadReport
from holdfast.state.restore import restore
from holdfast.state.unplain import from_plain
from holdfast.tensors.encode import encode
from holdfast.tensors.load import load_file
from holdfast.tensors.materialise import materialise

#: Where other code keeps its count of steps or epochs, at the top of the tree.
STEP_KEYS = ("step", "global_step", "iteration", "epoch")

#: Options of torch.save and torch.load that are left out on purpose, with what to do instead.
_REFUSED = {
    "pickle_module": "Other picklers write files that plain torch.load cannot open. Objects that "
    "the standard pickler cannot take: save their state_dict().",
    "pickle_protocol": "torch.load(weights_only=True) opens protocol 2 only, so that is written.",
    "_use_new_zipfile_serialization": "The legacy format has no checksums and is not written. "
    "Every torch since 1.4 reads the zip format.",
    "_disable_byteorder_record": "The byte order is always recorded.",
    "pickle_load_args": "Give encoding= directly.",
}


def save(obj: Any, file: str | os.PathLike[str] | BinaryIO, **options: Any) -> SaveInfo:
    """Write any object torch.save takes, with the same bytes, to a path or a binary file object.

    A path is written all or nothing and is durable when this returns.

    Raises:
        CaptureError: something in ``obj`` cannot be pickled.
        FileError: the file system said no; what was there before is untouched.
        UsageError: ``file`` is neither, or an option of torch.save that is left out on purpose.
    """
    _refuse(options, "save")
    started = time.monotonic()
    encoded = encode(obj)
    warn_of_slices(encoded)
    return save_encoded(encoded, file, started=started)


def load(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    map_location: Any = "cpu",
    mmap: bool = False,
    verify: bool | None = None,
    trust: Any = (),
    opaque: str = "error",
    encoding: str = "utf-8",
    weights_only: bool = True,
    **options: Any,
) -> Any:
    """Read what torch.save or holdfast wrote; give what torch.load gives, and run nothing in it.

    Args:
        file: a path (a file, ``RUN``, ``RUN@best:loss``, ``RUN@100``) or a binary file object.
        map_location: where tensors go, as in torch.load; the CPU unless said otherwise.
        mmap: map the file instead of reading it; bytes are then read when they are used.
        verify: check every CRC; None: yes unless ``mmap``.
        trust: classes and functions that this call may build, or ``{"old.module.Name": NewClass}``.
        opaque: ``"error"``, or what stands for objects of other classes: ``"keep"`` returns them as
            ``Opaque``; ``"state_dict"`` does too, and gives each model that was pickled whole as
            its state dict, without its class. What may differ from it is logged as a warning.
        encoding: how text of Python 2 files is decoded.
        weights_only: only True is taken.
        options: those of torch.load that are left out; each is an error that shows the way.

    Raises:
        UntrustedError: it holds objects of classes that are not trusted; all are named.
        FormatError: it is no checkpoint, or is damaged; file, member and tensor are named.
    """
    if weights_only is not True:
        raise UsageError(
            "load() never runs code from a file, so weights_only=False is not taken",
            cure="Name the classes you trust: holdfast.load(path, trust=[MyModel]).\n"
            "The error of a load without it lists all that a file needs, ready to paste.",
        )
    _refuse(options, "load")
    return load_file(
        where.resolve(file) if isinstance(file, str | os.PathLike) else file,
        map_location=map_location,
        mmap=mmap,
        verify=verify,
        trust=trust,
        opaque=opaque,
        encoding=encoding,
    )


def _refuse(options: Mapping[str, Any], function: str) -> None:
    for name in options:
        raise UsageError(
            f"{function}() does not take {name}=",
            cure=_REFUSED.get(name, f"See help(holdfast.{function})."),
        )


def save_state(
    path: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    **parts: Any,
) -> SaveInfo:
    """Save live objects by name, with the global generators, as one checkpoint file.

    ``extra`` holds plain values, tensors and arrays; ``metrics`` are numbers for the record.

    Raises:
        CaptureError: a part or a value that cannot be saved; its path is named.
        FileError: the file system said no; what was there before is untouched.
        UsageError: no parts, a reserved name, or an optimizer whose parameters belong to no part.
    """
    started = time.monotonic()
    live = _some(as_parts(parts), "save_state")
    floats = as_metrics(metrics)
    captured = capture(live, extra or {})
    record = Record(
        id=uuid.uuid4().hex,
        time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        metrics=floats,
        parameters=captured.parameters,
        converted=captured.converted,
        provenance=provenance.collect(),
    )
    return save_encoded(encode(captured.tree), path, record=encode_record(record), started=started)


def load_state(
    source: str | os.PathLike[str],
    *,
    strict: bool = True,
    rename: None = None,
    select: None = None,
    cast: bool = False,
    map_location: Any = "cpu",
    rng: bool = False,
    trust: Any = (),
    **parts: Any,
) -> LoadReport:
    """Restore live objects from a checkpoint, all of them or none.

    ``source`` is a file, ``RUN`` (its latest), ``RUN@best:loss`` or ``RUN@100``. Names, shapes and
    dtypes must agree: ``strict``, ``rename``, ``select`` and ``cast`` take their defaults only, so
    far. With ``rng`` the global generators are restored too, last of all.

    Raises:
        MissingPartError: the checkpoint lacks a part.
        MismatchError: a part does not fit; nothing has changed, and the error has the report.
        FormatError: the file is damaged or is no checkpoint; nothing has changed.
    """
    refuse_not_yet(
        strict=(strict, True), rename=(rename, None), select=(select, None), cast=(cast, False)
    )
    live = _some(as_parts(parts), "load_state")
    return load_parts(where.resolve(source), live, rng=rng, map_location=map_location, trust=trust)


def describe(**parts: Any) -> Description:
    """Show what a checkpoint of these parts would hold, and what it would not.

    Raises:
        CaptureError: a part that cannot be saved.
        UsageError: no parts, a reserved name, or an optimizer whose parameters belong to no part.
    """
    live = _some(as_parts(parts), "describe")
    check(live, {})
    return describe_parts(live)


def _some(live: dict[str, Part], function: str) -> dict[str, Part]:
    if not live:
        raise UsageError(
            f"{function}() got no live object",
            cure=f"Give them by name: holdfast.{function}(..., model=model, optimizer=optimizer)",
        )
    return live


def load_parts(
    path: Path,
    parts: Mapping[str, Part],
    *,
    rng: bool,
    map_location: Any = "cpu",
    trust: Any = (),
) -> LoadReport:
    """Read headers, match, compare every CRC, and only then restore the parts.

    Raises:
        MismatchError: a part does not fit, or refused its state; nothing has changed.
        FormatError: the file is damaged or is no checkpoint; nothing has changed.
    """
    with closing(open_source(path)) as source:
        index = read_index(source)
        reports = match(index, parts)
        verified = verify_index(index, source)
        if verified.damages:
            raise _damaged(index, verified.damages[0])
        wanted = {name: index.tree[name] for name in _wanted(index, parts, rng)}
        states = materialise(
            replace(index, tree=wanted), source, map_location=map_location, trust=trust
        )
    notes = index.record.converted if index.record is not None else {}
    states = {
        name: from_plain(state, (name,), notes, file=index.file) for name, state in states.items()
    }
    left = restore(parts, states, states.get("rng") if rng else None)
    if rng and "rng" not in states:
        left.append("the random generators: the checkpoint does not have them")
    return LoadReport(
        source=str(path),
        step=step_of(index),
        id=None if index.record is None else index.record.id,
        parts=reports,
        not_asked=tuple(str(key) for key in index.tree if key not in {*parts, *_ours(index)}),
        not_restored=tuple(left),
        extra=states.get("extra") or {},
        metrics={} if index.record is None else index.record.metrics,
    )


def _ours(index: Index) -> tuple[str, ...]:
    """What stands in a checkpoint beside its parts; other code may use these names otherwise."""
    return () if index.record is None else ("extra", "rng")


def _wanted(index: Index, parts: Mapping[str, Part], rng: bool) -> list[str]:
    names = {*parts, *_ours(index), *(["rng"] if rng else [])}
    return [name for name in index.tree if name in names]


def _damaged(index: Index, damage: Any) -> DamagedError:
    return DamagedError(
        "the bytes are not those that were saved; nothing was restored",
        file=index.file,
        member=damage.member,
        tensor=damage.tensors[0] if damage.tensors else None,
        wanted=f"CRC {damage.expected_crc:08x}",
        found="no bytes that unpack" if damage.found_crc is None else f"{damage.found_crc:08x}",
        cure="Go back to an earlier checkpoint; holdfast verify lists all that is damaged.",
    )


def step_behind(path: Path) -> int:
    """The step to begin with behind a checkpoint.

    Raises:
        UsageError: it holds no step.
    """
    found = step_of(read_headers(path))
    if found is None:
        raise UsageError(
            "start_from= holds no step, so where to start is not known",
            file=path,
            wanted=f"a whole number at its top, under {', '.join(map(repr, STEP_KEYS))}",
            cure="Say it: start_step=0.",
        )
    return found + 1


def step_of(index: Index) -> int | None:
    """The step a checkpoint holds: the record's, else what other code stored; None if neither."""
    if index.record is not None and index.record.step is not None:
        return index.record.step
    tree = index.tree if isinstance(index.tree, Mapping) else {}
    counts = (tree.get(key) for key in STEP_KEYS)
    return next((c for c in counts if isinstance(c, int) and not isinstance(c, bool)), None)
