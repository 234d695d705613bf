"""Restore live parts from a checkpoint, an open one, or a dict: match, verify, build, put back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.checkpoint import Checkpoint
from holdfast.distributed.shares import view_of
from holdfast.errors import DamagedError, MismatchError, UsageError
from holdfast.formats import read_index
from holdfast.formats.at_rest import collector_at_rest
from holdfast.formats.dcp.unseen import with_checksums
from holdfast.io.progress import Bar
from holdfast.io.source import Source, open_source
from holdfast.pickles.modules import with_state_dicts
from holdfast.report.paths import storages_of
from holdfast.report.verify import verified_nbytes, verify_index
from holdfast.runs import where
from holdfast.runs.reading import read_headers
from holdfast.spec.index import SIZED, Index
from holdfast.spec.tree import dotted, walk
from holdfast.state.late import postpone
from holdfast.state.leftovers import Leftovers, leftovers
from holdfast.state.match import Matched, Options, match
from holdfast.state.meta import has_meta
from holdfast.state.parts import ModulePart, Part
from holdfast.state.recipe import Recipe
from holdfast.state.report import LoadReport
from holdfast.state.restore import restore
from holdfast.state.shapes import is_lazy
from holdfast.state.unplain import from_plain
from holdfast.tensors.into import Target, nbytes_of, read_into, whole_storages
from holdfast.tensors.locate import device_of
from holdfast.tensors.materialise import materialise
from holdfast.tensors.trust import Trust
from holdfast.tensors.whole import has_modules

#: What ``load_state`` and its like take: a path, an open checkpoint, or what is in one.
State = str | os.PathLike[str] | Checkpoint | Mapping[str, Any]

#: Where other code keeps its count of steps or epochs, at the top of the tree.
STEP_KEYS = ("step", "global_step", "iteration", "epoch")


def _refuse_frozen(index: Index) -> None:
    """A frozen program's tensors bear numbers: by shapes alone they would fit in any order."""
    is_constant = (key.startswith("constants/") for key in index.extents)
    if index.format == "torchscript" and index.extents and all(is_constant):
        raise MismatchError(
            "this program is frozen: its weights are constants of its code, and have no names",
            file=index.file,
            cure="Export it anew without freeze=True, or load the checkpoint that it was made of: "
            "holdfast show says which.",
        )


def load_parts(
    source: State,
    parts: Mapping[str, Part],
    options: Options | None = None,
    *,
    rng: bool,
    map_location: Any = "cpu",
    trust: Any = (),
    rank: tuple[int, int] = (0, 1),
    ready: Callable[[str | None], object] | None = None,
    shares_headers: bool = True,
) -> LoadReport:
    """Read headers, match, compare every CRC, and only then restore the parts.

    ``rank`` is this process and how many there are: each has generators and a place in the data of
    its own. ``ready`` is called with the checkpoint's id when nothing has changed yet, and may
    raise: with it all of these load together, and each compares its share of CRCs, and of headers
    if it ``shares_headers``.

    Raises:
        MissingPartError: the checkpoint lacks a part.
        MismatchError: a part does not fit, or refused its state; nothing has changed.
        HeadersError: it cannot be shared: all of them have to look at all headers.
        FormatError: the file is damaged or is no checkpoint; nothing has changed.
        UsageError: an option means nothing.
    """
    share = (0, 1) if ready is None else rank
    with _opened(source, share if shares_headers else (0, 1)) as (index, opened):
        _refuse_frozen(index)
        view = view_of(index, *rank, parts)
        index, has_rng = view.index, rng and view.has_rng
        parts = {name: part for name, part in parts.items() if name not in view.skipped}
        targets: list[Target] = []
        with collector_at_rest():
            matched = match(index, parts, options)
            rest = leftovers(index, matched, Trust(trust))
            if opened is not None:
                matched, targets = _postponed(matched, parts, device_of(map_location))
            wanted = _wanted(index, matched, rest, rng=has_rng)
            if opened is not None and index.is_shared:
                index = with_checksums(index, opened, _whole(index, targets, wanted))
        with Bar(verified_nbytes(index, share=share) + nbytes_of(index, targets)) as bar:
            if opened is None:
                values = _copied(wanted)
            else:
                _verify(index, opened, bar, share)
                values = _built(
                    index, opened, wanted, parts, map_location=map_location, trust=trust
                )
            values = _unplain(index, matched, values)
            if ready is not None:
                ready(None if index.record is None else index.record.id)
            left = _put_back(matched, parts, values)
            if opened is not None:
                with collector_at_rest():
                    read_into(index, opened, targets, bar.advance)
    left += (*view.notes, *(view.rng_notes if rng else ()))
    if has_rng and values["rng"] is None:
        left.append("the random generators: the checkpoint does not have them")
    return LoadReport(
        source=index.file,
        step=step_of(index),
        id=None if index.record is None else index.record.id,
        parts=matched.reports,
        not_asked=rest.not_asked,
        opaque=rest.opaque,
        not_restored=tuple(left),
        extra=values["extra"],
        metrics={} if index.record is None else index.record.metrics,
    )


def _whole(index: Index, targets: Iterable[Target], wanted: Mapping[str, Any]) -> set[str]:
    """The keys of all storages that are read whole, into live tensors or new ones."""
    built = {storage.key for _, leaf in walk(wanted) for storage in storages_of(leaf)}
    return built | whole_storages(index, targets)


def _built(
    index: Index,
    source: Source,
    wanted: Mapping[str, Any],
    parts: Mapping[str, Part],
    *,
    map_location: Any,
    trust: Any,
) -> dict[str, Any]:
    """What is wanted, as tensors: ``map_location`` is for those that no live part has a place for.

    A step count or a generator's state on another device than the live one's is of no use.
    """
    placed = {name: state for name, state in wanted["parts"].items() if _has_places(parts[name])}
    other = {name: state for name, state in wanted["parts"].items() if name not in placed}
    tree = {"parts": placed, "rng": wanted["rng"]}
    here = materialise(replace(index, tree=tree), source, trust=trust)
    tree = {"parts": other, "extra": wanted["extra"]}
    there = materialise(replace(index, tree=tree), source, map_location=map_location, trust=trust)
    return {**here, **there, "parts": here["parts"] | there["parts"]}


def _has_places(part: Part) -> bool:
    """Whether a live part says where its tensors go."""
    if isinstance(part, ModulePart):
        return not has_meta(part.live)
    return type(part) is not Part


def _put_back(matched: Matched, parts: Mapping[str, Part], values: Mapping[str, Any]) -> list[str]:
    """Give the parts that the checkpoint has their states; in words, what was not restored."""
    recipes = matched.recipes
    states = {name: recipe.arrange(values["parts"][name]) for name, recipe in recipes.items()}
    there = {name: part for name, part in parts.items() if name in states}
    return restore(there, states, values["rng"], recipes)


@contextmanager
def _opened(
    source: State, share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Index, Source | None]]:
    """The index of what is given, and where its bytes are; None where it has live tensors."""
    if isinstance(source, Mapping):
        tree = {key: _state_of(value) for key, value in source.items()}
        yield Index(file="the dict given", format="dict", tree=tree, extents={}), None
    elif isinstance(source, Checkpoint):
        source.check_open()
        yield _with_weights(source.index), source.source
    elif not isinstance(source, str | os.PathLike):
        raise UsageError(
            "a state is loaded from a path, an open Checkpoint or a dict",
            found=f"{type(source).__module__}.{type(source).__qualname__}",
            cure="The source comes first: holdfast.load_state(source, model=model).",
        )
    else:
        with open_source(where.resolve(source)) as opened:
            yield _with_weights(read_index(opened, share=share)), opened


def _postponed(
    matched: Matched, parts: Mapping[str, Part], device: torch.device | None
) -> tuple[Matched, list[Target]]:
    """The same without the tensors that are read into live memory at the end, and these.

    On ``device`` modules without memory get theirs.
    """
    recipes: dict[str, Recipe] = {}
    targets: list[Target] = []
    for name, recipe in matched.recipes.items():
        recipes[name], more = postpone(parts[name], recipe, targets, device)
        targets += more
    return replace(matched, recipes=recipes), targets


def _state_of(value: Any) -> Any:
    """A live model in a dict stands for its state dict, as one in a file does."""
    return value.state_dict() if isinstance(value, nn.Module) else value


def _with_weights(index: Index) -> Index:
    """The same with state dicts in the places of models, pickled whole or scripted."""
    if index.format == "torchscript":
        leaves = walk(index.tree)
        return replace(
            index, tree={dotted(p): leaf for p, leaf in leaves if isinstance(leaf, SIZED)}
        )
    if not index.symbols and not has_modules(index.tree):
        return index
    return replace(index, tree=with_state_dicts(index.tree, file=index.file))


def _wanted(index: Index, matched: Matched, rest: Leftovers, *, rng: bool) -> dict[str, Any]:
    """What of the checkpoint is built: the states that parts take, the generators', and extra."""
    return {
        "parts": {name: recipe.saved for name, recipe in matched.recipes.items()},
        "rng": index.tree.get("rng") if rng and isinstance(index.tree, Mapping) else None,
        "extra": rest.extra,
    }


def _copied(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tensors of its own: a state that is loaded is never that of two objects."""
    return {**wanted, "parts": {k: _own(v) for k, v in wanted["parts"].items()}}


def _own(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if is_lazy(value) else value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _own(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_own(each) for each in value)
    return value


def _unplain(index: Index, matched: Matched, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was made plain when it was saved as it was before: NumPy's arrays and numbers."""
    if index.record is None or not index.record.converted:
        return dict(values)
    notes, file = index.record.converted, index.file
    return {
        "parts": {
            name: from_plain(values["parts"][name], recipe.path, notes, file=file)
            for name, recipe in matched.recipes.items()
        },
        "rng": from_plain(values["rng"], ("rng",), notes, file=file),
        "extra": from_plain(values["extra"], ("extra",), notes, file=file),
    }


def _verify(index: Index, source: Source, bar: Bar, share: tuple[int, int]) -> None:
    """Compare every CRC, or a share of them, before anything live is changed.

    Raises:
        DamagedError: one is not that of the bytes.
    """
    verified = verify_index(index, source, on_progress=bar.advance, share=share)
    if not verified.damages:
        return
    damage = verified.damages[0]
    raise DamagedError(
        "the bytes are not those that were saved; nothing was restored",
        file=index.file,
        member=damage.member,
        tensor=damage.tensors[0] if damage.tensors else None,
        wanted=f"CRC {damage.expected_crc:08x}",
        found="no bytes that unpack" if damage.found_crc is None else f"{damage.found_crc:08x}",
        cure="Go back to an earlier checkpoint; holdfast verify lists all that is damaged.",
    )


def step_of(index: Index) -> int | None:
    """The step a checkpoint holds: the record's, else what other code stored; None if neither."""
    if index.record is not None and index.record.step is not None:
        return index.record.step
    tree = index.tree if isinstance(index.tree, Mapping) else {}
    counts = (tree.get(key) for key in STEP_KEYS)
    return next((c for c in counts if isinstance(c, int) and not isinstance(c, bool)), None)


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
