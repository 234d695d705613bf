"""JSON as its standard has it: Python's own reader takes more than that by default."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from holdfast.errors import FormatError

#: More digits than any size, offset or number of bytes has.
_MOST_DIGITS = 40


def decode(
    data: bytes, *, what: str, file: str, member: str | None = None, takes_nan: bool = False
) -> Any:
    """The values in UTF-8 JSON without repeated keys, NaN, huge integers or lone surrogates.

    ``what`` says in a letter what the bytes are; with ``takes_nan`` NaN and Infinity, which Python
    writes, are numbers.

    Raises:
        FormatError: they are something else.
    """
    try:
        text = data.decode()
        made = json.loads(
            text,
            object_pairs_hook=_pairs,
            parse_constant=float if takes_nan else _constant,
            parse_int=_integer,
        )
        if "\\u" in text:
            json.dumps(made, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{what} cannot be read",
            file=file,
            member=member,
            wanted="plain JSON",
            found=str(error)[:200],
            cure="The file is broken: get it again, or use an earlier one.",
        ) from error
    return made


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands there twice")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> float:
    if digits == "-0":
        return -0.0  # not the whole number 0: other readers refuse it where they want a size
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)
