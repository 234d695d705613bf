"""``map_location``: where storages go, with torch.load's meaning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from holdfast.errors import UsageError

Restore: TypeAlias = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def is_meta(map_location: Any) -> bool:
    """Whether tensors go to the meta device, which has no bytes to read."""
    if isinstance(map_location, torch.device):
        return map_location.type == "meta"
    return isinstance(map_location, str) and map_location.partition(":")[0] == "meta"


def device_of(map_location: Any) -> torch.device | None:
    """The device that all storages go to; None where it depends on them, or has no memory.

    Raises:
        UsageError: this machine lacks the device.
    """
    if not isinstance(map_location, str | torch.device) or is_meta(map_location):
        return None
    restorer(map_location)
    return torch.device(map_location)


def restorer(map_location: Any) -> Restore:
    """The function that takes a storage in memory and the location in the file to its device.

    A device (text or ``torch.device``) takes all storages; a dict maps locations in the file to
    devices; a function gets both and returns a storage, or None for the place it came from; None
    puts all where they came from.

    Raises:
        UsageError: it is none of these, or this machine lacks the device.
    """
    if map_location is None:
        return _put
    if isinstance(map_location, str | torch.device):
        device = str(map_location)
        if device == "cpu":
            return lambda storage, _: storage
        _put(torch.UntypedStorage(0), device)  # a device that is not there is an error at once
        return lambda storage, _: _put(storage, device)
    if isinstance(map_location, Mapping):
        return lambda storage, location: _put(storage, map_location.get(location, location))
    if callable(map_location):
        return lambda storage, location: _ask(map_location, storage, location)
    raise UsageError(
        "map_location is a device, a dict, a function or None",
        found=f"{type(map_location).__module__}.{type(map_location).__qualname__}",
        cure='map_location="cpu" is the default.',
    )


def _ask(
    function: Callable[..., Any], storage: torch.UntypedStorage, location: str
) -> torch.UntypedStorage:
    given = function(storage, location)
    if given is None:
        return _put(storage, location)
    untyped = getattr(given, "_untyped_storage", given)
    if not isinstance(untyped, torch.UntypedStorage):
        raise UsageError(
            "the function given as map_location returns a storage or None",
            found=f"{type(given).__module__}.{type(given).__qualname__}",
        )
    return untyped


def _put(storage: torch.UntypedStorage, location: Any) -> torch.UntypedStorage:
    try:
        placed: torch.UntypedStorage = torch.serialization.default_restore_location(
            storage, str(location)
        )
    except (RuntimeError, ValueError, AttributeError, AssertionError) as error:
        raise UsageError(
            f"this machine cannot put tensors on {str(location)[:40]!r}",
            found=str(error).partition(". ")[0][:200],
            cure='Load with map_location="cpu", the default.',
        ) from error
    return placed
