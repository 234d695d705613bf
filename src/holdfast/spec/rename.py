"""Rules that rename: exact names, prefixes, and patterns with ``*``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from holdfast.errors import UsageError
from holdfast.spec.naming import closest

Rules: TypeAlias = Mapping[str, str] | Callable[[str], str]

_ARROW = re.compile(r"\s*(?:→|->|=>)\s*")


@dataclass(frozen=True, slots=True)
class Renamed:
    """New names by old ones, in order, and the rule that each of those went by that fits one.

    A rule is the text on its left side; of a function it is the function's name.
    """

    names: Mapping[str, str]
    rules: Mapping[str, str] = field(default_factory=dict)


def parse(text: str) -> tuple[str, str]:
    """A rule as people write it: ``old → new``, or ``old -> new``; either side may be empty.

    Raises:
        UsageError: there is no arrow in it, or more than one.
    """
    sides = _ARROW.split(text.strip())
    if len(sides) != 2:
        raise UsageError(
            "this is no rule to rename by",
            wanted="'old → new' (or 'old -> new')",
            found=repr(text),
            cure="An exact name, a prefix, or a pattern: 'encoder.*.weight → enc.*.w'.",
        )
    return sides[0], sides[1]


def rename(names: Iterable[str], rules: Rules, *, may_be_idle: bool = False) -> Renamed:
    """New names for all of ``names``: the first rule that fits one renames it, the rest stay.

    A rule's left side is an exact name, a prefix (``module.`` or ``module``: whole steps, never
    part of one; an empty one fits all), or a pattern in which each ``*`` stands for any text and
    is put back in order for the ``*`` of the right side.

    Raises:
        UsageError: two names become one or one becomes empty, or a rule fits no name, unless it
            ``may_be_idle``.
    """
    check(rules)
    if callable(rules):
        made = {name: _applied(rules, name) for name in names}
        by = getattr(rules, "__name__", "the function")
        return Renamed(_checked(made), {old: by for old, new in made.items() if new != old})
    compiled = [(old, _compiled(old, new)) for old, new in rules.items()]
    made = {}
    used: dict[str, str] = {}
    for name in names:
        made[name] = name
        for old, apply in compiled:
            new = apply(name)
            if new is not None:
                made[name] = new
                used[name] = old
                break
    if not may_be_idle:
        refuse_idle(rules, used.values(), list(made))
    return Renamed(_checked(made), used)


def _applied(rules: Callable[[str], str], name: str) -> str:
    try:
        made = rules(name)
    except Exception as error:  # the caller's own code
        raise UsageError(
            "the function that renames raised",
            found=f"{type(error).__name__}: {error}, of {name!r}",
        ) from error
    if not isinstance(made, str):
        raise UsageError(
            "the function that renames gives text for text", found=f"{made!r} for {name!r}"[:200]
        )
    return made


def check(rules: object) -> None:
    """Refuse what is no rules.

    Raises:
        UsageError: it is neither a function nor texts by texts.
    """
    if not callable(rules) and not is_text(rules):
        raise UsageError(
            "rename= takes texts by texts, or a function",
            wanted='{"old": "new"}',
            found=repr(rules)[:100],
        )


def refuse_idle(rules: Rules, used: Iterable[str], names: Sequence[str]) -> None:
    """Refuse rules that fitted none of ``names``: such a rule is probably mistyped.

    Raises:
        UsageError: one is not among the ``used`` ones; the names nearest to it are given.
    """
    if callable(rules):
        return
    idle = [old for old in rules if old not in {*used}]
    if not idle:
        return
    raise UsageError(
        "a rule renames nothing: no name fits it",
        wanted=repr(idle[0]),
        found=", ".join(_near(idle[0], names) or names[:5]) or "no names at all",
        cure="A rule has the name as it is in the file, or whole steps from its beginning, or a *.",
    )


def _near(old: str, names: Sequence[str]) -> list[str]:
    """Names that begin somewhat like the left side of a rule, however long they are."""
    steps = old.rstrip(".").count(".") + 1
    heads: dict[str, str] = {}
    for name in names:
        heads.setdefault(".".join(name.split(".")[:steps]), name)
    return [heads[head] for head in closest(old, list(heads))]


def is_text(rules: object) -> bool:
    """Whether a value is a mapping of texts to texts."""
    return isinstance(rules, Mapping) and all(
        isinstance(each, str) for pair in rules.items() for each in pair
    )


def _compiled(old: str, new: str) -> Callable[[str], str | None]:
    if "*" in old:
        return _pattern(old, new)
    prefix = old if old.endswith(".") or not old else f"{old}."
    replacement = new if new.endswith(".") or not new or not old else f"{new}."

    def apply(name: str) -> str | None:
        if name == old:
            return new
        return replacement + name[len(prefix) :] if name.startswith(prefix) else None

    return apply


def _pattern(old: str, new: str) -> Callable[[str], str | None]:
    if new.count("*") > old.count("*"):
        raise UsageError(
            "a pattern puts back as many * as it takes",
            wanted=f"at most {old.count('*')}",
            found=repr(f"{old} → {new}"),
        )
    pattern = re.compile("(.*)".join(re.escape(piece) for piece in old.split("*")), re.DOTALL)
    pieces = new.split("*")

    def apply(name: str) -> str | None:
        match = pattern.fullmatch(name)
        if match is None:
            return None
        between = [*match.groups()[: len(pieces) - 1], ""]
        return "".join(piece + text for piece, text in zip(pieces, between, strict=True))

    return apply


def _checked(made: dict[str, str]) -> dict[str, str]:
    first: dict[str, str] = {}
    for old, new in made.items():
        if not new and old:
            raise UsageError(
                "a tensor would have no name", wanted=f"a name for {old!r}", found="nothing"
            )
        if new in first:
            raise UsageError(
                "two tensors would have one name",
                wanted="a name for each",
                found=f"{first[new]!r} and {old!r} both become {new!r}",
            )
        first[new] = old
    return made
