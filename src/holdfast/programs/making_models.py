"""The model that a user's own code makes: ``SCRIPT.py:MAKE`` or ``package.module:MAKE``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from holdfast.errors import HoldfastError, UsageError
from holdfast.programs.calling import as_tensor
from holdfast.programs.saying import raised_in


def model_by(text: str) -> nn.Module:
    """Import the code and call what it names; this runs the user's code.

    Raises:
        UsageError: there is no such file or name, it fails, or what it gives is no model.
    """
    model = object_by(text)
    where, _, name = text.rpartition(":")
    if not isinstance(model, nn.Module):
        model = _called(model, name, where)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{name} makes no model",
            file=where,
            wanted="an instance of torch.nn.Module",
            found=f"{type(model).__module__}.{type(model).__qualname__}",
        )
    return model


def object_by(text: str) -> Any:
    """Import the code and take what it names.

    Raises:
        UsageError: there is no such file or name, or the code fails.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise UsageError(
            "this names no code that makes a model",
            wanted="SCRIPT.py:MAKE, where MAKE is a class or a function without arguments",
            found=repr(text),
        )
    with _explained(where):
        module = _from_file(Path(where)) if where.endswith(".py") else _by_name(where)
    if not hasattr(module, name):
        raise UsageError(f"there is no {name!r} in this code", file=where)
    return getattr(module, name)


def _called(make: Any, name: str, where: str) -> Any:
    wanted = "a class or a function that is called without arguments"
    if not callable(make):
        found = f"{type(make).__module__}.{type(make).__qualname__}"
        raise UsageError(f"{name} makes no model", file=where, wanted=wanted, found=found)
    try:
        inspect.signature(make).bind()
    except ValueError:  # Python cannot look into it; calling it says what is wrong
        pass
    except TypeError as error:
        raise UsageError(
            f"{name} cannot be called without arguments",
            file=where,
            wanted=wanted,
            found=str(error),
            cure=f"Add one that does: def make(): return {name}(...).",
        ) from error
    with _explained(where, name):
        return make()


@contextmanager
def _explained(where: str, name: str | None = None) -> Iterator[None]:
    """What the user's own code raises as a letter that says where; a script may also exit."""
    try:
        yield
    except HoldfastError:
        raise
    except (Exception, SystemExit) as error:
        alone = f"python {where}" if where.endswith(".py") else f"python -m {where}"
        raise UsageError(
            f"{name}() fails" if name else "this code fails when it is imported",
            file=where,
            found=raised_in(error, os.path.realpath(where)),
            cure=None
            if name
            else f"Does {alone} work? What trains, or reads the command line, "
            'belongs under if __name__ == "__main__".',
        ) from error


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageError("there is no such script", file=file)
    # As `python script.py` does: its neighbours can be imported.
    known = sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == os.fspath(file.resolve()):
        return known  # one that makes the model and has a class to trust is one
    sys.path.insert(0, str(file.parent.resolve()))
    spec = importlib.util.spec_from_file_location(file.stem, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(file.stem, None)  # the script may have taken it away itself
        raise
    return module


def _by_name(name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # of what it imports itself
        raise UsageError(
            "there is no such module",
            found=repr(name),
            cure="Name a file, path/to/script.py:MAKE, or a module that Python can import.",
        ) from error


def tensors_of(example: Any) -> Any:
    """Arrays of an example as tensors, a tuple or a dict of them."""
    if isinstance(example, Mapping):
        return {name: as_tensor(array) for name, array in example.items()}
    return tuple(as_tensor(np.asarray(array)) for array in example)
