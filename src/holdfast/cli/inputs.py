"""Inputs of a program as they are given on the command line: a shape, or a file of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.errors import FileError, FormatError, UsageError

#: What is made of a shape: NumPy's names, and bfloat16, which is ml_dtypes'.
_FLOATS = ("float16", "float32", "float64", "bfloat16")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
_WAYS = (
    "[NAME=]SHAPE[:DTYPE[:BELOW]], such as 1x3x224x224 or ids=2x16:int64:1000; or [NAME=]FILE.npy"
)


@dataclass(frozen=True, slots=True)
class Given:
    """One ``--input``: a file, or a shape with a dtype and, of integers, what all are below."""

    name: str | None
    file: Path | None = None
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    below: int = 2


def parse(text: str) -> Given:
    """Read ``x=1x3x8x8``, ``2x16:int64:1000``, ``x.npy``.

    Raises:
        UsageError: it says no input.
    """
    name, equals, rest = text.partition("=")
    if not equals:
        name, rest = "", text
    if rest.endswith(".npy"):
        return Given(name or None, Path(rest))
    found = re.fullmatch(r"(\d+(?:x\d+)*|scalar)(?::(\w+))?(?::(\d+))?", rest)
    dtype = (found[2] or "float32") if found else ""
    is_whole = dtype in _INTEGERS or dtype == "bool"
    if not found or not (is_whole or dtype in _FLOATS) or (found[3] and dtype not in _INTEGERS):
        raise UsageError("this is no input", wanted=_WAYS, found=repr(text))
    shape = () if found[1] == "scalar" else tuple(map(int, found[1].split("x")))
    return Given(name or None, None, shape, dtype, int(found[3] or 2))


def array_of(given: Given, number: int) -> Any:
    """The numbers: those of the file, or random ones, the same for each ``number``.

    Raises:
        FileError, FormatError: the file cannot be read.
        UsageError: there is no array of that shape.
    """
    if given.file is not None:
        return load(given.file)
    try:
        return _random(given, number)
    except (MemoryError, ValueError, OverflowError) as error:
        raise UsageError(
            "no array of this shape can be made",
            found="x".join(map(str, given.shape))[:100],
            cure=f"{str(error)[:200]}",
        ) from error


def _random(given: Given, number: int) -> Any:
    random = np.random.default_rng(number)
    if given.dtype in _FLOATS:
        values = random.standard_normal(given.shape)
        if given.dtype == "bfloat16":
            import ml_dtypes

            return np.asarray(values).astype(ml_dtypes.bfloat16)
        return np.asarray(values, dtype=given.dtype)
    return np.asarray(random.integers(0, max(given.below, 1), given.shape), dtype=given.dtype)


def load(file: Path) -> Any:
    """The array in a .npy file; nothing in it is unpickled.

    Raises:
        FileError: it cannot be opened.
        FormatError: it is no .npy file, or holds Python objects.
    """
    try:
        found = np.load(file, allow_pickle=False)
    except OSError as error:
        raise FileError(
            f"this input cannot be read: {error.strerror or error}", errno=error.errno, file=file
        ) from error
    except (ValueError, EOFError) as error:
        raise FormatError(
            "this is no file of numbers",
            file=file,
            wanted="a .npy file, as numpy.save writes it",
            found=str(error)[:200],
        ) from error
    if not isinstance(found, np.ndarray):
        names = ", ".join(found.files)
        found.close()
        raise FormatError(
            "this holds several arrays",
            file=file,
            wanted="a .npy file, as numpy.save writes it",
            found=f"an .npz file of {names}"[:200],
            cure="Save each by itself: numpy.save.",
        )
    return found


def as_example(arrays: Sequence[tuple[str | None, Any]]) -> Any:
    """Arrays by position as a tuple, by name as a dict.

    Raises:
        UsageError: some have names and some have none.
    """
    names = [name for name, _ in arrays]
    if not any(names):
        return tuple(array for _, array in arrays)
    if not all(names) or len(set(names)) != len(names):
        raise UsageError(
            "each input has a name of its own, or none has",
            wanted="--input a=1x3 --input b=1x5",
            found=", ".join(str(name) for name in names),
        )
    return {str(name): array for name, array in arrays}
