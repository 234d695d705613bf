"""Plain values and fields of records that differ between two checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.report.diff import ValueChange
from holdfast.report.leaves import is_plain_sequence
from holdfast.report.values import text_of, type_of, whole_text_of
from holdfast.spec.index import Index, Opaque


def changed_values(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[ValueChange]:
    """The plain values of two checkpoints, by name, that are not the same in both."""
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            one, other = (_shown(side[name]) if name in side else None for side in (a, b))
            yield ValueChange(name, one, other)
        elif not _is_same(a[name], b[name]):
            one, other = _shown(a[name]), _shown(b[name])
            if one == other:  # they differ where the text is shortened, or in their types
                one, other = (f"{_shown(each)} ({type_of(each)})" for each in (a[name], b[name]))
            yield ValueChange(name, one, other)


def _is_same(a: Any, b: Any) -> bool:
    """Whether two plain values are one; what else they are, their whole text says."""
    if type(a) is not type(b):
        return False
    if isinstance(a, str | bytes | int | None):
        return bool(a == b)
    if isinstance(a, list | tuple) and is_plain_sequence(a) and is_plain_sequence(b):
        return len(a) == len(b) and all(map(_is_same, a, b))
    if isinstance(a, Opaque):
        return _shown(a) == _shown(b)
    return whole_text_of(a) == whole_text_of(b)


def _shown(value: Any) -> str:
    return f"<{value.symbol}>" if isinstance(value, Opaque) else text_of(value)


def changed_record(a: Index, b: Index) -> Iterator[ValueChange]:
    """The fields of two records that are not the same in both."""
    left, right = ({} if i.record is None else _fields(i.record.to_json()) for i in (a, b))
    for path in dict.fromkeys((*left, *right)):
        one, other = left.get(path), right.get(path)
        if one != other:
            yield ValueChange(".".join(path), _shortened(one), _shortened(other))


def _fields(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """The fields of a record by their path, as JSON."""
    found: dict[tuple[str, ...], str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _fields(value, (*above, name))
        elif value not in (None, {}, []):
            found[(*above, name)] = json.dumps(value, ensure_ascii=False)
    return found


def _shortened(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


#: Characters of a record's field that are shown.
_LONGEST = 200
