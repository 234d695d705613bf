"""Holdfast keeps PyTorch training state: save without stopping, restore exactly, look inside.

The names below are the whole interface; each is imported when it is first used, so that looking at
a file never imports torch.
"""

# Underscores, and no __future__ import: nothing but the door's names is importable from here.
import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from holdfast import errors
    from holdfast.checkpoint import Checkpoint
    from holdfast.exporting import export, load_program
    from holdfast.looking import convert, diff, open, scan, stats, verify
    from holdfast.run import Run
    from holdfast.runs import keep
    from holdfast.runs.every import every
    from holdfast.training import describe, load, load_model, load_state, save, save_state, snapshot

__version__ = "0.1.0"

#: Where each public name lives; None: the name is a module itself.
_HOMES: dict[str, tuple[str, str | None]] = {
    "Checkpoint": ("holdfast.checkpoint", "Checkpoint"),
    "Run": ("holdfast.run", "Run"),
    "convert": ("holdfast.looking", "convert"),
    "describe": ("holdfast.training", "describe"),
    "diff": ("holdfast.looking", "diff"),
    "errors": ("holdfast.errors", None),
    "export": ("holdfast.exporting", "export"),
    "every": ("holdfast.runs.every", "every"),
    "keep": ("holdfast.runs.keep", None),
    "load": ("holdfast.training", "load"),
    "load_model": ("holdfast.training", "load_model"),
    "load_program": ("holdfast.exporting", "load_program"),
    "load_state": ("holdfast.training", "load_state"),
    "open": ("holdfast.looking", "open"),
    "save": ("holdfast.training", "save"),
    "save_state": ("holdfast.training", "save_state"),
    "snapshot": ("holdfast.training", "snapshot"),
    "scan": ("holdfast.looking", "scan"),
    "stats": ("holdfast.looking", "stats"),
    "verify": ("holdfast.looking", "verify"),
}

__all__ = [
    "Checkpoint",
    "Run",
    "convert",
    "describe",
    "diff",
    "errors",
    "every",
    "export",
    "keep",
    "load",
    "load_model",
    "load_program",
    "load_state",
    "open",
    "save",
    "save_state",
    "scan",
    "snapshot",
    "stats",
    "verify",
]


def __getattr__(name: str) -> _typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    home, attribute = _HOMES[name]
    try:
        module = _importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from holdfast.errors import MissingExtraError

        raise MissingExtraError(
            f"holdfast.{name} needs torch, which is not installed",
            cure='pip install "holdfast[torch]"',
        ) from error
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
