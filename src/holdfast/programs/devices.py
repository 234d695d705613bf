"""The device that a program is to run on."""

from __future__ import annotations

from typing import Any

import torch

from holdfast.errors import UsageError
from holdfast.programs.saying import said


def parsed(device: Any) -> torch.device:
    """The device that a text means.

    Raises:
        UsageError: it means none.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(
            "this names no device", wanted='"cpu", "cuda", "cuda:1", …', found=repr(device)[:100]
        ) from error


def usable(device: Any) -> torch.device:
    """A device that tensors can be on, here and now.

    Raises:
        UsageError: it means none, or there is none such on this machine.
    """
    wanted = parsed(device)
    try:
        if wanted.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            "a program cannot be loaded onto this device",
            wanted="a device of this machine",
            found=f"{wanted}: {said(error)}",
        ) from error
    return wanted
