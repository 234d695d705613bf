"""What the files of a run are called: the template, free names, the pin's name."""

from __future__ import annotations

import itertools
import os
import re
import string
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from holdfast.errors import UsageError

#: The suffixes a checkpoint's name may have; the first is added where a template has none.
SUFFIXES = (".pt", ".pth")

#: How a time is written where the template does not say.
TIME_FORMAT = "%Y%m%d_%H%M%S"

PIN_SUFFIX = ".pin"

#: The temp written beside a checkpoint has a longer name than it; file systems stop at 255 bytes.
_MOST_BYTES = 200

_EXAMPLE = 'Write it as name="step-{step:08d}" or name="{time:%Y%m%d_%H%M%S}-{step}".'
_FOREIGN_SUFFIXES = (".ckpt", ".bin", ".safetensors", ".onnx", ".zip", ".tmp", ".pin", ".lock")
_INT_SPEC = re.compile(
    r"(?:(?P<fill>.)?(?P<align>[<>=^]))?[-+ ]?\#?(?P<zero>0)?\d{0,3}[,_]?(?P<type>[bdoxXn])?",
    re.DOTALL,
)
_SAMPLE_STEPS = (0, 1, 47, 10**9)
_SAMPLE_TIME = datetime(2026, 9, 30, 23, 59, 58)


@dataclass(frozen=True, slots=True)
class Template:
    """The names of a run's checkpoints, such as ``step-{step:08d}``.

    Fields: ``{step}`` with any integer format, ``{time}`` with any ``strftime`` format. ``.pt`` is
    added unless the text ends with ``.pt`` or ``.pth``. Two steps never get one name, so
    ``{step}`` must be there, in a format that keeps every digit.

    Raises:
        UsageError: the text is no such template.
    """

    text: str

    def __post_init__(self) -> None:
        _check_fields(self.text)
        for step in _SAMPLE_STEPS:
            try:
                name = _formatted(self.text, step, _SAMPLE_TIME)
            except ValueError as error:
                raise _wrong(self.text, f"cannot be filled in ({error})") from error
            _check_name(self.text, name)

    def format(self, step: int, time: datetime) -> str:
        """The file name of the checkpoint of ``step`` (0 or more), saved at ``time``."""
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise UsageError("a step is a whole number from 0 on", found=repr(step))
        return _with_suffix(_formatted(self.text, step, time))


def _formatted(text: str, step: int, time: datetime) -> str:
    pieces = []
    for literal, field, spec, _ in string.Formatter().parse(text):
        pieces.append(literal)
        if field == "step":
            pieces.append(format(step, spec or ""))
        elif field == "time":
            pieces.append(time.strftime(spec or TIME_FORMAT))
    return "".join(pieces)


def _with_suffix(name: str) -> str:
    return name if name.endswith(SUFFIXES) else name + SUFFIXES[0]


def _check_fields(text: str) -> None:
    if not isinstance(text, str) or not text:
        raise _wrong(text, "is empty" if text == "" else "is no text")
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise _wrong(text, f"cannot be read ({error})") from error
    names = [field for _, field, _, _ in parsed if field is not None]
    for _, field, spec, conversion in parsed:
        if field is not None:
            _check_field(text, field, spec or "", conversion)
    if "step" not in names:
        raise _wrong(text, "gives two steps the same name: it has no {step}")
    pairs = itertools.pairwise(parsed)
    if any(one[1] is not None and other[1] is not None and not other[0] for one, other in pairs):
        raise _wrong(text, "could give two steps the same name: its fields touch each other")


def _check_field(text: str, field: str, spec: str, conversion: str | None) -> None:
    if field not in ("step", "time") or conversion is not None:
        shown = field + (f"!{conversion}" if conversion else "")
        raise _wrong(text, f"has the field {{{shown}}}, where only {{step}} and {{time}} are known")
    if "{" in spec:
        raise _wrong(text, f"has a field within a field: {{{field}:{spec}}}")
    if field == "step":
        _check_step_format(text, spec)


def _check_step_format(text: str, spec: str) -> None:
    match = _INT_SPEC.fullmatch(spec)
    if match is None:
        raise _wrong(text, f"formats the step with {spec!r}, which is no format of whole numbers")
    fill = match["fill"] or ("0" if match["zero"] else " ")
    pads_behind = match["align"] in ("<", "^")
    # 1 and 10 filled up with zeros behind them, or 5 and 55 with fives, are the same text.
    if fill.isalnum() and (fill != "0" or pads_behind):
        raise _wrong(text, f"gives two steps the same name: {{step:{spec}}} fills up with {fill!r}")


def _check_name(text: str, name: str) -> None:
    if not name.strip() or name in SUFFIXES:
        raise _wrong(text, "gives an empty name")
    if name.startswith("."):
        raise _wrong(text, "gives a hidden name: it starts with a dot")
    bad = next((sign for sign in name if sign in "/\\" or not sign.isprintable()), None)
    if bad is not None:
        kind = "a path separator" if bad in "/\\" else "a sign that names cannot hold"
        raise _wrong(text, f"gives names with {bad!r}, {kind}")
    if name.lower().endswith(_FOREIGN_SUFFIXES):
        raise _wrong(text, "gives a suffix that is neither .pt nor .pth")
    if len(os.fsencode(_with_suffix(name))) > _MOST_BYTES:
        raise _wrong(text, f"gives names of over {_MOST_BYTES} bytes")


def _wrong(text: object, why: str) -> UsageError:
    return UsageError(f"the name template {text!r} {why}", cure=_EXAMPLE)


def split_suffix(name: str) -> tuple[str, str]:
    """A checkpoint's name without ``.pt`` or ``.pth``, and that suffix ("" for other names)."""
    for suffix in SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return name[: -len(suffix)], suffix
    return name, ""


def pin_name(name: str) -> str:
    """The name of a checkpoint's pin: ``step-00000100.pin`` for ``step-00000100.pt``."""
    return split_suffix(name)[0] + PIN_SUFFIX


def free_name(name: str, taken: Collection[str]) -> str:
    """``name``, or the first of ``step-00000600.2.pt``, ``.3.pt``, ... that nothing bears yet.

    ``taken`` holds every name in the folder, those of unreadable checkpoints included: their names
    are never used again. A name is also taken when its pin is there, so that no new checkpoint
    is born pinned, or when a folder bears it without the suffix.
    """
    stem, suffix = split_suffix(name)
    candidate, number = stem, 1
    while not {candidate + suffix, candidate, candidate + PIN_SUFFIX}.isdisjoint(taken):
        number += 1
        candidate = f"{stem}.{number}"
    return candidate + suffix
