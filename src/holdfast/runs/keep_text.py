"""Policies as people write them in a shell: ``latest:3``, ``best:accuracy:max``, ``every:1000``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from holdfast.errors import UsageError
from holdfast.runs import keep
from holdfast.runs.checking import MODES
from holdfast.runs.keep import Keep

_WAYS = "latest:N, best:METRIC[:min|max], every:STEPS or every:MINUTESm"


def parse(texts: Sequence[str]) -> Keep:
    """The policy that keeps what any of ``texts`` keeps.

    Raises:
        UsageError: there is none, or one means nothing.
    """
    if not texts:
        raise UsageError(
            "nothing says what to keep",
            wanted=_WAYS,
            cure="For example: --keep latest:3 --keep best:loss",
        )
    return reduce(or_, [_parse_one(text) for text in texts])


def _parse_one(text: str) -> Keep:
    kind, _, rest = text.partition(":")
    if kind == "latest" and _is_count(rest):
        return keep.latest(int(rest))
    if kind == "best" and rest:
        metric, colon, mode = rest.rpartition(":")
        if colon and mode in MODES:
            return keep.best(metric, mode=mode)
        return keep.best(rest)
    if kind == "every" and _is_count(rest):
        return keep.every(steps=int(rest))
    if kind == "every" and rest.endswith("m") and _is_count(rest[:-1]):
        return keep.every(minutes=int(rest[:-1]))
    raise UsageError("this policy means nothing", wanted=_WAYS, found=repr(text))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
