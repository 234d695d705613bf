"""Which name in a checkpoint is which name of a live part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.spec.rename import Rules, rename
from holdfast.state.report import Renaming

#: The steps that wrappers put into names: DataParallel and its like, torch.compile, Lightning.
WRAPPERS = frozenset({"module", "_orig_mod", "_forward_module"})


@dataclass(frozen=True, slots=True)
class Pairing:
    """Live names with the saved names that are theirs, and those on one side only.

    ``rules`` are the left sides of the caller's rules that fitted a name.
    """

    found: Mapping[str, str]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    renamed: tuple[Renaming, ...] = ()
    rules: frozenset[str] = field(default_factory=frozenset)


def pair(live: Iterable[str], saved: Sequence[str], rules: Rules | None = None) -> Pairing:
    """Pair names: after the caller's rules those that are the same, then those that are plainly.

    Plainly means without the steps that wrappers add, ``module`` and ``_orig_mod`` and their like,
    wherever they stand and on either side; where two names of one side are the same so, neither is
    paired.

    Raises:
        UsageError: rules give two names one.
    """
    live = list(live)
    by = rename(saved, rules, may_be_idle=True) if rules is not None else None
    old_names = (
        {new: old for old, new in by.names.items()} if by else {name: name for name in saved}
    )
    found = _by_whole_prefixes(live, list(old_names))
    dropped: dict[str, list[tuple[str, str]]] = {}
    for name, other in found.items():
        if name != other:
            dropped.setdefault(_steps_apart(other, name), []).append((other, name))
    settled = {plain_name(name) for pair_ in found.items() for name in pair_}
    plain = _by_plain_name(old_names.keys() - found.values())
    for bare, name in _by_plain_name(name for name in live if name not in found).items():
        if bare in plain and bare not in settled:
            found[name] = plain[bare]
            dropped.setdefault(_steps_apart(plain[bare], name), []).append((plain[bare], name))
    taken = set(found.values())
    return Pairing(
        {name: old_names[found[name]] for name in live if name in found},
        tuple(name for name in live if name not in found),
        tuple(old for new, old in old_names.items() if new not in taken),
        (*_by_rule(by.names, by.rules, rules), *_wrappers(dropped)) if by else _wrappers(dropped),
        frozenset(by.rules.values()) if by else frozenset(),
    )


def _by_whole_prefixes(live: list[str], saved: list[str]) -> dict[str, str]:
    """Live names with equal saved ones, once what wrappers put before all names of a side is off.

    A model may have a module of its own that is called ``module``: of all ways to take prefixes off
    that one counts which makes most names equal, and of those the one that takes least.
    """
    ways = [
        {a: b for a, b in ((old, by_bare.get(bare)) for bare, old in bare_live.items()) if b}
        for bare_live in _without_prefixes(live)
        for by_bare in _without_prefixes(saved)
    ]
    return max(ways, key=len)


def _without_prefixes(names: list[str]) -> Iterator[dict[str, str]]:
    """The names as they are, then without a wrapper's step before all, without two, and so on."""
    bare = {name: name for name in names}
    yield bare
    while bare and len({name.partition(".")[0] for name in bare} | {""}) == 2:
        step = next(iter(bare)).partition(".")[0]
        if step not in WRAPPERS or not all("." in name for name in bare):
            return
        bare = {name.partition(".")[2]: full for name, full in bare.items()}
        yield bare


def plain_name(name: str) -> str:
    """A name without the steps that wrappers add."""
    if not any(step in name for step in WRAPPERS):
        return name
    return ".".join(step for step in name.split(".") if step not in WRAPPERS)


def _by_plain_name(names: Iterable[str]) -> dict[str, str]:
    """Names by what they are without wrappers' steps; two that are the same so are left out."""
    found: dict[str, str] = {}
    twice = set()
    for name in names:
        bare = plain_name(name)
        if found.setdefault(bare, name) != name:
            twice.add(bare)
    return {bare: name for bare, name in found.items() if bare not in twice}


def _steps_apart(saved: str, live: str) -> str:
    """In words, the steps that one of two names has and the other has not."""
    sides = (("left out", saved, live), ("added", live, saved))
    words = []
    for verb, longer, shorter in sides:
        more = [step for step in longer.split(".") if step in WRAPPERS]
        less = [step for step in shorter.split(".") if step in WRAPPERS]
        for step in less:
            if step in more:
                more.remove(step)
        words += [f"{'.'.join(more)}. {verb}"] if more else []
    order = " and ".join(f"{step}." for step in live.split(".") if step in WRAPPERS)
    return ", ".join(words) or f"{order} in another order"


def _wrappers(dropped: Mapping[str, list[tuple[str, str]]]) -> tuple[Renaming, ...]:
    return tuple(Renaming(words, tuple(names)) for words, names in dropped.items())


def _by_rule(
    names: Mapping[str, str], by: Mapping[str, str], rules: Rules | None
) -> tuple[Renaming, ...]:
    """What each of the caller's rules renamed."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for old, rule in by.items():
        if names[old] != old:
            groups.setdefault(rule, []).append((old, names[old]))
    return tuple(
        Renaming(
            f"{rule!r} → {rules[rule]!r}" if isinstance(rules, Mapping) else rule, tuple(found)
        )
        for rule, found in groups.items()
    )
