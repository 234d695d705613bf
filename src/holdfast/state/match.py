"""Compare what a checkpoint holds with the live parts, before anything is read or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from holdfast.errors import MismatchError, MissingPartError, UsageError
from holdfast.spec.index import Index
from holdfast.spec.rename import Rules, is_text, refuse_idle
from holdfast.spec.rename import check as check_rules
from holdfast.spec.tree import walk
from holdfast.state import module_match
from holdfast.state.choose import choose
from holdfast.state.module_match import ModuleMatch
from holdfast.state.names import first_names, known_names, parameter_names, plain_tensors
from holdfast.state.optimizer_fit import names_in
from holdfast.state.optimizer_match import Names, match_optimizer
from holdfast.state.parts import (
    ModulePart,
    OptimizerPart,
    Part,
    ScalerPart,
    SchedulerPart,
    modules_of,
)
from holdfast.state.places import Found, Parameter, Wanted
from holdfast.state.recipe import Recipe
from holdfast.state.report import LoadReport, PartReport, parts_in
from holdfast.state.scheduler_kind import compare_keys
from holdfast.state.scheduler_match import follow_groups, keep_lists_of_other_groups
from holdfast.state.shapes import elements_of, sizes_of
from holdfast.tensors.storages import place_of


@dataclass(frozen=True, slots=True)
class Options:
    """How a checkpoint is matched with live parts.

    ``strict`` True: all names and shapes must agree; ``"shapes"``: what has another shape is
    skipped; False: names on one side only are taken, too. ``cast``: another element type is taken.
    ``rename_at_need``: the rules are for checkpoints whose names do not fit as they are.
    """

    strict: bool | str = True
    rename: Rules | None = None
    select: Mapping[str, str] | None = None
    cast: bool = False
    rename_at_need: bool = False

    def check(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            UsageError: one does.
        """
        if not isinstance(self.strict, bool) and self.strict != "shapes":
            raise UsageError("strict= is True, False or 'shapes'", found=repr(self.strict)[:100])
        if self.rename is not None:
            check_rules(self.rename)
        if self.select is not None and not is_text(self.select):
            raise UsageError(
                "select= takes places in the checkpoint by parts",
                wanted='{"model": "modelA_state_dict"}',
                found=repr(self.select)[:100],
            )


@dataclass(frozen=True, slots=True)
class Matched:
    """What will be restored: a recipe for each part that the checkpoint has, and all reports."""

    reports: tuple[PartReport, ...]
    recipes: Mapping[str, Recipe]


def match(index: Index, parts: Mapping[str, Part], options: Options | None = None) -> Matched:
    """Match every live part with the checkpoint: which state is its, and what of that fits.

    Raises:
        MissingPartError: the checkpoint lacks a part that was asked for, or has several for one.
        MismatchError: a part does not fit; the error carries the whole report.
        UsageError: an option means nothing, or a rule renames nothing.
    """
    options = options or Options()
    options.check()
    if options.rename is not None and options.rename_at_need:
        return _match_at_need(index, parts, options)
    names = parameter_names(modules_of(parts))
    found = choose(
        index.tree,
        [_wanted(part, names) for part in parts.values()],
        select=options.select,
        rules=options.rename,
        recorded=index.record.parameters if index.record is not None else {},
        file=index.file,
    )
    missing = [name for name, place in found.items() if place is None]
    if missing and (options.strict is True or len(missing) == len(parts)):
        raise _no_such_part(index, missing)
    matching = _Matching(index, parts, {n: f for n, f in found.items() if f is not None}, options)
    matched = matching.run()
    if not all(report.fits for report in matched.reports):
        raise _does_not_fit(index, matched.reports)
    return matched


def _match_at_need(index: Index, parts: Mapping[str, Part], options: Options) -> Matched:
    """Without the rules where everything fits so, or where they fit no name; else with them."""
    plain = replace(options, rename=None, rename_at_need=False)
    try:
        return match(index, parts, replace(plain, strict=True))
    except MismatchError:
        try:
            return match(index, parts, replace(options, rename_at_need=False))
        except UsageError:
            return match(index, parts, plain)


def _wanted(part: Part, names: Mapping[int, str]) -> Wanted:
    """A live part as choosing sees it; ``names`` are those of parameters by their ``id``."""
    if isinstance(part, ModulePart):
        return module_match.wanted(part)
    if isinstance(part, OptimizerPart):
        live = (Parameter(names.get(id(each)), sizes_of(each)) for each in _parameters(part))
        return Wanted(part.name, part.kind, {}, tuple(live))
    return Wanted(part.name, part.kind, {})


class _Matching:
    """One match: modules first, as optimizers go by their names, and schedulers by their groups."""

    def __init__(
        self, index: Index, parts: Mapping[str, Part], found: Mapping[str, Found], options: Options
    ) -> None:
        self._index, self._parts, self._found, self._options = index, parts, found, options
        self._modules: dict[str, ModuleMatch] = {}
        self._recipes: dict[str, Recipe] = {}

    def run(self) -> Matched:
        """Match all parts; reports come in the order in which the parts were given."""
        reports: dict[str, PartReport] = {}
        for part in sorted(self._parts.values(), key=_rank):
            reports[part.name] = self._part(part)
        self._refuse_idle_rules()
        for name, notes in self._shared_tensors().items():
            reports[name] = replace(reports[name], notes=(*reports[name].notes, *notes))
        return Matched(tuple(reports[name] for name in self._parts), self._recipes)

    def _shared_tensors(self) -> dict[str, list[str]]:
        """Notes on tensors that two parts have, and of which the checkpoint has two."""
        first: dict[object, tuple[str, Any]] = {}
        notes: dict[str, list[str]] = {}
        for part, matched in self._modules.items():
            for name, tensor in plain_tensors(self._parts[part].live).items():
                old = matched.recipe.names.get(name)
                if old is None:
                    continue
                mine = elements_of(matched.recipe.saved[old])
                other, theirs = first.setdefault(place_of(tensor), (f"{part}.{name}", mine))
                if not other.startswith(f"{part}.") and theirs != mine:
                    said = f"{name} is {other}, and two tensors in the checkpoint: the last counts"
                    notes.setdefault(part, []).append(said)
        return notes

    def _part(self, part: Part) -> PartReport:
        options = self._options
        blank = PartReport(part.name, part.kind, strict=options.strict, casts=options.cast)
        found = self._found.get(part.name)
        if found is None:
            return replace(blank, notes=("the checkpoint has none: it stays as it is",))
        blank = replace(blank, found=found.place, why=found.why)
        if isinstance(part, ModulePart):
            return self._module(part, found, blank)
        if isinstance(part, OptimizerPart):
            return self._optimizer(part, found, blank)
        return self._other(part, found, blank)

    def _module(self, part: ModulePart, found: Found, blank: PartReport) -> PartReport:
        if not isinstance(found.state, Mapping):
            return replace(blank, problem=f"no state dict, but a {type(found.state).__name__}")
        matched = module_match.match_module(part, found, blank, self._options.rename)
        self._modules[part.name] = matched
        self._recipes[part.name] = matched.recipe
        return matched.report

    def _optimizer(self, part: OptimizerPart, found: Found, blank: PartReport) -> PartReport:
        names = known_names(part.live, parameter_names(modules_of(self._parts)))
        live = [name for group in names for name in group]
        if any(name is None and p.is_meta for name, p in zip(live, _parameters(part), strict=True)):
            return replace(
                blank,
                problem="its parameters have no memory yet: give their model in this call too",
            )
        firsts = first_names(modules_of(self._parts))
        saved_names = _by_first_names(self._saved_names(found, firsts), firsts)
        report, recipe = match_optimizer(
            blank, part.live, names, found, saved_names, self._resized()
        )
        if recipe is not None:
            recast = frozenset(self._recast(live))
            self._recipes[part.name] = replace(recipe, recast=recast)
        return report

    def _resized(self) -> set[str]:
        """The names of parameters whose saved shape is another one."""
        return {
            f"{part}.{name}"
            for part, matched in self._modules.items()
            for name, _, _ in matched.report.differing
        }

    def _recast(self, live: Sequence[str | None]) -> list[int]:
        """The positions of parameters whose saved element type is another one."""
        changed = {
            f"{part}.{name}"
            for part, matched in self._modules.items()
            for name, _, _ in matched.report.cast
        }
        return [at for at, name in enumerate(live) if name in changed]

    def _saved_names(self, found: Found, firsts: Mapping[str, str]) -> Names:
        """The names of an optimizer's saved parameters, as the live parts call them."""
        record = self._index.record
        recorded = None
        if record is not None and len(found.path) == 1:
            recorded = record.parameters.get(found.path[0])
        if recorded is not None:
            return [[self._with_part(name) for name in group] for group in recorded]
        groups = found.state.get("param_groups") if isinstance(found.state, Mapping) else None
        given = [names_in(group) for group in groups] if isinstance(groups, list | tuple) else []
        return [[self._without_part(name, firsts) for name in group] for group in given]

    def _with_part(self, name: str | None) -> str | None:
        """The live name of ``part.parameter``, where the part may be called otherwise now."""
        if name is None:
            return None
        saved_part, _, parameter = name.partition(".")
        for part, matched in self._modules.items():
            if self._found[part].path == (saved_part,):
                return f"{part}.{matched.live_name(parameter)}"
        return name

    def _without_part(self, name: str | None, firsts: Mapping[str, str]) -> str | None:
        """The live name of a parameter that is named without its part; None if several are."""
        if name is None:
            return None
        names = [f"{part}.{each.live_name(name)}" for part, each in self._modules.items()]
        there = {firsts[each] for each in names if each in firsts}
        return there.pop() if len(there) == 1 else name if not there else None

    def _other(self, part: Part, found: Found, blank: PartReport) -> PartReport:
        if isinstance(part, ScalerPart) and not found.state:
            return _of_a_disabled_scaler(blank, part)
        report = replace(blank, loaded=sum(1 for _ in walk(found.state)), notes=part.notes())
        recipe = Recipe(found.path, found.state)
        optimizer = getattr(part.live, "optimizer", None)
        if isinstance(part, SchedulerPart) or isinstance(optimizer, torch.optim.Optimizer):
            report, recipe = self._scheduler(part, optimizer, report, recipe)
        self._recipes[part.name] = recipe
        return report

    def _scheduler(
        self, part: Part, optimizer: Any, report: PartReport, recipe: Recipe
    ) -> tuple[PartReport, Recipe]:
        """The same for what has an optimizer: a scheduler of torch, or of another library."""
        live = part.capture()
        if isinstance(part, SchedulerPart):
            report = compare_keys(report, part.live, recipe.saved, live)
        if report.problem is not None or not isinstance(optimizer, torch.optim.Optimizer):
            return report, recipe
        found = self._restored_with(optimizer)
        if found is not None:
            return follow_groups(report, recipe, live, found)
        return keep_lists_of_other_groups(report, recipe, live, len(optimizer.param_groups))

    def _restored_with(self, optimizer: torch.optim.Optimizer) -> Recipe | None:
        """The recipe of an optimizer, where this call restores it."""
        for part in self._parts.values():
            # Accelerate wraps optimizers: the part is another object, its groups are the same.
            if isinstance(part, OptimizerPart) and part.live.param_groups is optimizer.param_groups:
                return self._recipes.get(part.name)
        return None

    def _refuse_idle_rules(self) -> None:
        rules = self._options.rename
        if rules is None:
            return
        used = [rule for each in self._modules.values() for rule in each.pairing.rules]
        names = [
            name for part in self._modules for name in self._found[part].state if type(name) is str
        ]
        refuse_idle(rules, used, names)


def _by_first_names(names: Names, firsts: Mapping[str, str]) -> Names:
    """The same with a tied parameter's first name for another of its, unless that is there too."""
    taken = {name for group in names for name in group}

    def first(name: str | None) -> str | None:
        its = firsts.get(name or "", name)
        if its in taken:
            return name
        taken.add(its)
        return its

    return [[first(name) for name in group] for group in names]


def _of_a_disabled_scaler(blank: PartReport, part: ScalerPart) -> PartReport:
    """What a state without anything in it does to a scaler; one that is enabled begins anew."""
    reason = "the saved scaler was disabled"
    if part.live.is_enabled():
        return replace(blank, fresh=(f"its scale ({reason})",))
    return replace(blank, skipped=(("its state", reason),))


def _rank(part: Part) -> int:
    """When a part is matched: after those that it goes by."""
    return 0 if isinstance(part, ModulePart) else 1 if isinstance(part, OptimizerPart) else 2


def _parameters(part: OptimizerPart) -> list[torch.Tensor]:
    return [parameter for group in part.live.param_groups for parameter in group["params"]]


def _no_such_part(index: Index, missing: list[str]) -> MissingPartError:
    saved = index.tree if isinstance(index.tree, Mapping) else {}
    there = [
        f"{key!r} ({type(value).__name__}, no state of one)" if key in missing else repr(key)
        for key, value in saved.items()
        if value is not None
    ]
    return MissingPartError(
        f"the checkpoint has no part {' or '.join(map(repr, missing))}",
        file=index.file,
        wanted=", ".join(map(repr, missing)),
        found=", ".join(there[:10]) or "no parts at all",
        cure="Leave that part out of this call, or load a checkpoint that was saved with it.",
    )


def _does_not_fit(index: Index, reports: tuple[PartReport, ...]) -> MismatchError:
    error = MismatchError(
        "the checkpoint does not fit the live parts; nothing was changed",
        file=index.file,
        cure=parts_in(reports),
    )
    error.report = LoadReport(index.file, parts=reports)
    return error
