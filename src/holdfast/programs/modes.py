"""A model as it is exported: in evaluation mode, and afterwards as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def exported(model: nn.Module, *, train: bool) -> Iterator[None]:
    """Evaluation mode (or, with ``train``, the modes as they are), without gradients.

    The mode of every submodule and every buffer that a forward pass may change (running statistics
    of training) are put back at the end; nothing is moved.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        if not train:
            model.eval()
        # The fused fast path of attention is one operator that no other runtime has.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                if not _same(buffer, value):
                    buffer.copy_(value)


def _same(buffer: torch.Tensor, value: torch.Tensor) -> bool:
    return torch.equal(buffer, value) or bool((buffer.isnan() & value.isnan()).all())


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Torch says of TorchScript, at each call, that it goes away; docs/programs.md says it once."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
