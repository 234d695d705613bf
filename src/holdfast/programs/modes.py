"""A model as it is exported: in evaluation mode, and afterwards as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from holdfast.state.names import unwrap


class Buffers:
    """The buffers of a module as they are now, to be put back: a forward pass may change them."""

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (owner, name, buffer, buffer.detach().clone())
            for owner in module.modules()
            for name, buffer in owner.named_buffers(recurse=False)
        ]

    def are_changed(self) -> bool:
        """Whether one has another value, or another tensor in its place."""
        return any(
            getattr(owner, name) is not buffer or not (buffer.is_meta or _same(buffer, value))
            for owner, name, buffer, value in self._places
        )

    def put_back(self) -> None:
        """The same tensors in the same places, with the values they had."""
        with torch.no_grad():
            for owner, name, buffer, value in self._places:
                if getattr(owner, name) is not buffer:  # it was assigned another one
                    setattr(owner, name, buffer)
                if buffer.is_meta or _same(buffer, value):
                    continue
                if buffer.shape != value.shape:  # resized, as caches are
                    buffer.set_(value.clone().untyped_storage(), 0, value.shape, value.stride())
                else:
                    buffer.copy_(value)


def _same(buffer: torch.Tensor, value: torch.Tensor) -> bool:
    if buffer.shape != value.shape:
        return False
    return torch.equal(buffer, value) or bool(((buffer == value) | (buffer != buffer)).all())


@contextmanager
def exported(model: nn.Module, *, train: bool) -> Iterator[Buffers]:
    """Evaluation mode (or, with ``train``, the modes as they are), without gradients.

    The mode of every submodule, every buffer that a forward pass may change (running statistics of
    training), and the generators of random numbers are put back at the end; nothing is moved.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = Buffers(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        if not train:
            model.eval()
        # The fused fast path of attention is one operator that no other runtime has.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield buffers
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if not train:
            _put_modes_back(model, modes)
        buffers.put_back()


def _put_modes_back(model: nn.Module, modes: list[tuple[nn.Module, bool]]) -> None:
    """By ``train()``, which some classes have their own of: those of LoRA merge weights there."""
    model.train(modes[0][1])
    for module, mode in modes:
        if module.training != mode and type(module).train is not nn.Module.train:
            module.train(mode)
    for module, mode in modes:
        module.training = mode


@contextmanager
def unwrapped_within(model: nn.Module) -> Iterator[None]:
    """The model without the wrappers of training around its submodules, until the end."""
    owners = list(model.modules())
    wrapped = [
        (owner, name, child)
        for owner in owners
        for name, child in owner.named_children()
        if unwrap(child) is not child and unwrap(owner) is owner
    ]
    try:
        for owner, name, child in wrapped:
            setattr(owner, name, unwrap(child))
        yield
    finally:
        for owner, name, child in wrapped:
            setattr(owner, name, child)


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Torch says of TorchScript, at each call, that it goes away; docs/programs.md says it once."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield
