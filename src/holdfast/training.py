"""Save and load: bytes as torch does, and live objects by name."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, BinaryIO

from torch import nn

from holdfast.errors import UsageError
from holdfast.restoring import State, load_parts
from holdfast.runs import provenance, where
from holdfast.saving.foreground import SaveInfo, save_encoded, warn_of_slices
from holdfast.saving.metrics import as_metrics
from holdfast.spec.record import Record
from holdfast.spec.record import encode as encode_record
from holdfast.spec.rename import Rules
from holdfast.state.capture import capture, check
from holdfast.state.describe import Description, describe_parts
from holdfast.state.match import Options
from holdfast.state.parts import Part, as_parts
from holdfast.state.report import LoadReport
from holdfast.state.snapshot import Snapshot
from holdfast.tensors.encode import encode
from holdfast.tensors.load import load_file

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
    encoded = encode(obj, notes_views=True)
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
    source: State,
    *,
    strict: bool | str = True,
    rename: Rules | None = None,
    select: Mapping[str, str] | None = None,
    cast: bool = False,
    map_location: Any = "cpu",
    rng: bool = False,
    trust: Any = (),
    **parts: Any,
) -> LoadReport:
    """Restore live objects from a checkpoint, all of them or none.

    A part takes the state that bears its name (``model``, ``model_state_dict``), or what is
    customary (``state_dict``, ``module``), or the one mapping that fits its names and shapes; the
    report says which and why. Names that DataParallel, DistributedDataParallel and torch.compile
    prefix are handled on either side. An optimizer's state goes by the names of its parameters.

    Args:
        source: a file of any format holdfast reads, ``RUN`` (its latest), ``RUN@best:loss``,
            ``RUN@100``, an open ``Checkpoint``, or a dict such as ``torch.load`` gives.
        strict: True: all names and shapes agree; ``"shapes"``: what has another shape, or no
            counterpart, is skipped and reported; False: names on one side only are taken, too.
        rename: ``{"old": "new"}`` with exact names, prefixes or ``*`` patterns, or a function.
        select: places in the checkpoint by part: ``{"G": "modelA_state_dict"}``.
        cast: take tensors of another element type.
        map_location: where tensors go that no live part has a place for, as in torch.load.
        rng: restore the global generators, too, last of all.
        trust: classes and functions that may be built, as in ``load``.
        parts: the live objects by name; those that are None are left out.

    Raises:
        MissingPartError: the checkpoint lacks a part, or several places fit one.
        MismatchError: a part does not fit; nothing has changed, and the error has the report.
        FormatError: the file is damaged or is no checkpoint; nothing has changed.
        UsageError: an option means nothing, or a rule renames nothing.
        CaptureError: something given as a part that cannot be one.
    """
    live = _some(as_parts(parts), "load_state")
    options = Options(strict, rename, select, cast)
    return load_parts(source, live, options, rng=rng, map_location=map_location, trust=trust)


def load_model(
    source: State,
    model: nn.Module,
    *,
    strict: bool | str = True,
    rename: Rules | None = None,
    select: Mapping[str, str] | None = None,
    cast: bool = False,
    map_location: Any = "cpu",
    trust: Any = (),
) -> LoadReport:
    """Load weights into a model for inference: the weights only, then ``model.eval()``.

    Takes the options of ``load_state``, and raises like it.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            "load_model() loads into a model",
            wanted="an instance of torch.nn.Module",
            found=f"{type(model).__module__}.{type(model).__qualname__}",
            cure="holdfast.load_model(source, model); for other parts there is load_state.",
        )
    report = load_state(
        source,
        strict=strict,
        rename=rename,
        select=select,
        cast=cast,
        map_location=map_location,
        trust=trust,
        model=model,
    )
    model.eval()
    return report


def snapshot(**parts: Any) -> Snapshot:
    """Copy the state of live objects in memory, to put it back later: ``.restore()``.

    Raises:
        CaptureError: a part that has no state.
        UsageError: no parts, or a reserved name.
    """
    return Snapshot(_some(as_parts(parts), "snapshot"))


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
