"""Compare what a checkpoint holds with the live parts, before anything is read or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from holdfast.errors import MismatchError, MissingPartError
from holdfast.spec.index import Index, SparseRef, TensorRef
from holdfast.spec.tree import walk
from holdfast.state.capture import optimizer_names
from holdfast.state.optimizers import other_kind
from holdfast.state.parts import ModulePart, OptimizerPart, Part, SchedulerPart
from holdfast.state.report import LoadReport, PartReport


def match(index: Index, parts: Mapping[str, Part]) -> tuple[PartReport, ...]:
    """Match every live part with the checkpoint: same names, shapes and dtypes throughout.

    Raises:
        MissingPartError: the checkpoint lacks a part that was asked for.
        MismatchError: a part does not fit; the error carries the whole report.
    """
    saved = index.tree if isinstance(index.tree, Mapping) else {}
    missing = [name for name in parts if saved.get(name) is None]
    if missing:
        raise _no_such_part(index, missing, saved)
    names = optimizer_names(parts)
    recorded = index.record.parameters if index.record is not None else {}
    reports = tuple(
        _match_part(part, saved[name], names.get(name), recorded.get(name))
        for name, part in parts.items()
    )
    if not all(report.fits for report in reports):
        raise _does_not_fit(index, reports)
    return reports


def _match_part(
    part: Part,
    saved: Any,
    names: Sequence[Sequence[str | None]] | None,
    recorded: Sequence[Sequence[str | None]] | None,
) -> PartReport:
    if isinstance(part, ModulePart):
        return _match_module(part, saved)
    if isinstance(part, OptimizerPart):
        return _match_optimizer(part, saved, names or [], recorded)
    live = part.capture() if isinstance(part, SchedulerPart) else None
    problem = other_kind(saved, live)
    return PartReport(part.name, part.kind, loaded=sum(1 for _ in walk(saved)), problem=problem)


def _match_module(part: ModulePart, saved: Any) -> PartReport:
    live = part.capture()
    if not isinstance(saved, Mapping):
        found = type(saved).__name__
        return PartReport(part.name, part.kind, problem=f"no state dict, but a {found}")
    differing = tuple(
        (key, was, now)
        for key, value in live.items()
        if key in saved and (was := _describe(saved[key])) != (now := _describe(value))
    )
    return PartReport(
        part.name,
        part.kind,
        loaded=len(saved),
        missing=tuple(key for key in live if key not in saved),
        unexpected=tuple(str(key) for key in saved if key not in live),
        differing=differing,
    )


def _describe(value: Any) -> str:
    """Shape and dtype in words; other values are all alike (their class's own code takes them)."""
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, TensorRef | SparseRef):
        return f"{tuple(value.shape)} {value.dtype.name}"
    return "a value"


def _match_optimizer(
    part: OptimizerPart,
    saved: Any,
    names: Sequence[Sequence[str | None]],
    recorded: Sequence[Sequence[str | None]] | None,
) -> PartReport:
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    if not isinstance(groups, list) or "state" not in saved:
        return PartReport(part.name, part.kind, problem="not the state of an optimizer")
    was = [len(group.get("params", ())) for group in groups]
    now = [len(group) for group in names]
    if was != now:
        problem = f"parameters per group: saved {was}, here {now}"
        return PartReport(part.name, part.kind, problem=problem)
    for group, live in zip(groups, part.live.param_groups, strict=True):
        if (other := other_kind(group, live)) is not None:
            return PartReport(part.name, part.kind, problem=other)
    loaded = len(saved["state"])
    if recorded is None or [list(group) for group in recorded] == [list(g) for g in names]:
        return PartReport(part.name, part.kind, loaded=loaded)
    before, after = ({name for group in side for name in group} for side in (recorded, names))
    if before == after:
        problem = "the same parameters in another order or in other groups"
        return PartReport(part.name, part.kind, problem=problem)
    return PartReport(
        part.name,
        part.kind,
        missing=tuple(sorted(str(name) for name in after - before)),
        unexpected=tuple(sorted(str(name) for name in before - after)),
    )


def _no_such_part(index: Index, missing: list[str], saved: Mapping[Any, Any]) -> MissingPartError:
    there = [repr(key) for key, value in saved.items() if value is not None]
    return MissingPartError(
        f"the checkpoint has no part {' or '.join(map(repr, missing))}",
        file=index.file,
        wanted=", ".join(map(repr, missing)),
        found=", ".join(there) or "no parts at all",
        cure="Leave that part out of this call, or load a checkpoint that was saved with it.",
    )


def _does_not_fit(index: Index, reports: tuple[PartReport, ...]) -> MismatchError:
    lines = [line for report in reports if not report.fits for line in report.lines()]
    error = MismatchError(
        "the checkpoint does not fit the live parts; nothing was changed",
        file=index.file,
        cure="\n".join(lines),
    )
    error.report = LoadReport(index.file, parts=reports)
    return error
