"""The global random generators: Python's, NumPy's, torch's on the CPU and on every device."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

#: Device kinds with generators of their own, beside the CPU.
DEVICES = ("cuda", "mps", "xpu")


def capture_rng() -> dict[str, Any]:
    """The state of every global generator: plain values, arrays and byte tensors, all copies."""
    state: dict[str, Any] = {
        "python": pack_python(random.getstate()),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
    }
    for kind in DEVICES:
        if _is_available(kind):
            state[kind] = _device_states(kind)
    return state


def restore_rng(state: Mapping[str, Any]) -> list[str]:
    """Set every global generator to a captured state; name what could not be set.

    A generator the checkpoint does not have, or whose device this machine does not have, keeps its
    state and is named in the result.
    """
    left: list[str] = []
    for kind in DEVICES:
        left.extend(_restore_devices(kind, state.get(kind)))
    if "python" in state:
        random.setstate(unpack_python(state["python"]))
    else:
        left.append("Python's generator: not in the checkpoint")
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    else:
        left.append("NumPy's generator: not in the checkpoint")
    if "torch" in state:
        torch.set_rng_state(state["torch"])
    else:
        left.append("torch's CPU generator: not in the checkpoint")
    return left


def pack_python(state: tuple[Any, ...]) -> dict[str, Any]:
    """The state of a ``random.Random``: its 625 words as one array, not as 625 objects."""
    version, words, gauss = state
    return {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss}


def unpack_python(state: Mapping[str, Any]) -> tuple[Any, ...]:
    """What ``random.setstate`` takes."""
    return (state["version"], tuple(int(word) for word in state["words"]), state["gauss"])


def _is_available(kind: str) -> bool:
    if kind == "mps":
        return torch.backends.mps.is_available()
    module = getattr(torch, kind, None)
    # Asking for the state would start up a device that nobody has used: it has no state to keep.
    return module is not None and module.is_available() and module.is_initialized()


def _device_states(kind: str) -> list[torch.Tensor]:
    if kind == "mps":
        return [torch.mps.get_rng_state()]
    module = getattr(torch, kind)
    return [module.get_rng_state(index) for index in range(module.device_count())]


def _restore_devices(kind: str, states: list[torch.Tensor] | None) -> list[str]:
    if not states:
        if _is_available(kind):
            return [f"the generators of {kind}: not in the checkpoint"]
        return []
    module = getattr(torch, kind, None)
    if kind == "mps":
        count = int(torch.backends.mps.is_available())
    else:
        count = module.device_count() if module is not None and module.is_available() else 0
    for index, state in enumerate(states[:count]):
        if kind == "mps":
            torch.mps.set_rng_state(state)
        else:
            module.set_rng_state(state, index)  # type: ignore[union-attr]
    return [
        f"the generator of {kind}:{index}: this machine has {count} such devices"
        for index in range(count, len(states))
    ]
