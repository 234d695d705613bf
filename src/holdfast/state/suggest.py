"""Rules that would rename what did not match: what a person would find by looking at both lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher

from holdfast.errors import UsageError
from holdfast.spec.rename import rename
from holdfast.state.pairing import pair
from holdfast.state.report import Suggestion

#: Names by their shapes, in words; a rule may only join names of one shape.
Shapes = Mapping[str, str]

#: Gives the rules that would join two names, both as their steps.
_Kind = Callable[[list[str], list[str]], Iterator[tuple[str, str]]]

#: Rules in one suggestion; pairs of names that are looked at; rules of which the best is taken.
_MOST_RULES, _MOST_PAIRS, _MOST_TRIED = 8, 20_000, 20
#: Names written out one by one are a suggestion only where they are few.
_MOST_NAMES = 40


def suggest(live: Shapes, saved: Shapes) -> tuple[Suggestion, ...]:
    """The likeliest rules by which more saved names would match live ones, best first.

    Three kinds are tried: another beginning of names (a prefix on one side only, too), a step that
    is called otherwise throughout, and the same shapes in the same order. Rules that would undo
    what matches without them count less for it.
    """
    paired = pair(live, list(saved))
    missing = {name: live[name] for name in paired.missing}
    unexpected = {name: saved[name] for name in paired.unexpected}
    if not missing or not unexpected:
        return ()
    matched = list(paired.found.values())
    now = _matches({}, live, saved)
    tried = (
        (_cover(missing, unexpected, matched, _beginnings), "names that begin otherwise"),
        (_cover(missing, unexpected, matched, _steps), "a step that is called otherwise"),
        (_in_order(missing, unexpected), "the same shapes in the same order"),
    )
    made = [
        Suggestion(rules, more, why)
        for rules, why in tried
        if rules and (more := _matches(rules, live, saved) - now) > 0
    ]
    # Of two that match as many names, the shorter is likelier what was meant.
    made.sort(key=lambda each: (-each.matches, len(each.rename)))
    best: list[Suggestion] = []
    for each in made:
        if not best or len(each.rename) < len(best[-1].rename):
            best.append(each)
    return tuple(each for each in best if 2 * each.matches >= best[0].matches)


def _cover(missing: Shapes, unexpected: Shapes, matched: list[str], kind: _Kind) -> dict[str, str]:
    """Rules of one kind, the one that matches most first, then for what it leaves."""
    rules: dict[str, str] = {}
    left_missing, left = dict(missing), dict(unexpected)
    while left and left_missing and len(rules) < _MOST_RULES:
        votes = Counter(_votes(left_missing, left, kind)).most_common(_MOST_TRIED)
        tried = {rule: _hits(rule, left_missing, left, matched) for rule, _ in votes}
        best = max(tried, key=lambda rule: (len(tried[rule]), _likeness(rule)), default=None)
        if best is None or not tried[best]:
            break
        rules[best[0]] = best[1]
        for name, renamed in tried[best].items():
            del left[name], left_missing[renamed]
    return rules


def _votes(missing: Shapes, unexpected: Shapes, kind: _Kind) -> Iterator[tuple[str, str]]:
    """Every rule that would join one pair of names that are alike."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name, shape in missing.items():
        for key in _keys(name, shape):
            alike.setdefault(key, []).append(name)
    looked = 0
    for name, shape in unexpected.items():
        for other in (each for key in _keys(name, shape) for each in alike.get(key, ())):
            looked += 1
            if looked > _MOST_PAIRS:
                return
            yield from kind(name.split("."), other.split("."))


def _keys(name: str, shape: str) -> Iterator[tuple[str, str, str]]:
    """What names that are alike share: their shape, and their last step or all before it."""
    before, _, last = name.rpartition(".")
    yield "last", last, shape
    if before:
        yield "before", before, shape


def _beginnings(saved: list[str], live: list[str]) -> Iterator[tuple[str, str]]:
    """``encoder.0.weight`` and ``enc.0.weight``: what stands before the end they share.

    With one step of that end, too: a rule that fits all names may fit too many.
    """
    shared = 0
    while shared < min(len(saved), len(live)) and saved[-1 - shared] == live[-1 - shared]:
        shared += 1
    if not shared:
        return
    for kept in {shared, max(shared - 1, 0)}:
        before = saved[: len(saved) - kept], live[: len(live) - kept]
        old, new = (f"{'.'.join(steps)}." if steps else "" for steps in before)
        yield old, new


def _steps(saved: list[str], live: list[str]) -> Iterator[tuple[str, str]]:
    """``l.0.attention.w`` and ``l.0.attn.w``: the one step in which they differ, or the last."""
    if len(saved) != len(live):
        return
    apart = [at for at, (old, new) in enumerate(zip(saved, live, strict=True)) if old != new]
    if len(apart) == 1 and apart[0] > 0:
        after = "" if apart[0] == len(saved) - 1 else ".*"
        yield f"*.{saved[apart[0]]}{after}", f"*.{live[apart[0]]}{after}"


def _likeness(rule: tuple[str, str]) -> tuple[float, int]:
    """How alike the steps are in which a rule's sides differ; then the shorter rule comes first."""
    old, new = ([step for step in side.strip("*.").split(".") if step] for side in rule)
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    alike = SequenceMatcher(None, ".".join(old), ".".join(new)).ratio() if old and new else 1.0
    return alike, -len(rule[0])


def _hits(
    rule: tuple[str, str], missing: Shapes, unexpected: Shapes, matched: list[str]
) -> dict[str, str]:
    """What a rule joins, by the saved name; nothing where it renames what matches without it."""
    try:
        made = rename([*unexpected, *matched], dict([rule]), may_be_idle=True)
    except UsageError:
        return {}
    if not made.rules.keys().isdisjoint(matched):
        return {}
    renamed = ((old, made.names[old]) for old in unexpected)
    return {old: new for old, new in renamed if missing.get(new) == unexpected[old]}


def _matches(rules: Mapping[str, str], live: Shapes, saved: Shapes) -> int:
    """How many names match in name and shape when the rules are used."""
    try:
        found = pair(live, list(saved), rules).found
    except UsageError:
        return 0
    return sum(live[name] == saved[old] for name, old in found.items())


def _in_order(missing: Shapes, unexpected: Shapes) -> dict[str, str]:
    if list(missing.values()) != list(unexpected.values()) or len(missing) > _MOST_NAMES:
        return {}
    return dict(zip(unexpected, missing, strict=True))
