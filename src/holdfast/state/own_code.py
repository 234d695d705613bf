"""Modules that load a state dict by code of their own, such as hooks that rename old names."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from holdfast.spec.index import TensorRef
from holdfast.tensors.build import torch_dtype

#: Ways of torch's own classes that change no tensor they are given.
_PLAIN_WAYS = frozenset(
    {
        nn.Module._load_from_state_dict,
        nn.modules.batchnorm._NormBase._load_from_state_dict,
    }
)


def is_plain(module: nn.Module) -> bool:
    """Whether loading a state dict into a module does no more than copy tensors by their names."""
    return type(module).load_state_dict is nn.Module.load_state_dict and all(
        type(each)._load_from_state_dict in _PLAIN_WAYS
        and not _of_others(each._load_state_dict_pre_hooks)
        and not _of_others(each._load_state_dict_post_hooks)
        for each in module.modules()
    )


def _of_others(hooks: Mapping[int, Any]) -> bool:
    """Whether a hook is another's than torch's own for sharded modules, which change no tensor."""
    return any(
        not str(getattr(_inner(hook), "__module__", "")).startswith("torch.distributed.")
        for hook in hooks.values()
    )


def _inner(hook: Any) -> Any:
    """The function inside what torch and functools wrap around a hook."""
    while (inside := getattr(hook, "hook", None) or getattr(hook, "func", None)) is not None:
        hook = inside
    return hook


def load(
    module: nn.Module,
    state: Any,
    saves: Iterable[str],
    *,
    later: Collection[str] = (),
    is_partial: bool,
) -> None:
    """Load a state dict into a module whose own one has the names of ``saves``.

    What a class leaves out of it (a frozen encoder) torch would miss, as it would those that come
    ``later``. One with a load_state_dict of its own sees to that itself, and need not know
    ``strict=``.

    Raises:
        RuntimeError: names are missing or not expected; tensors may have been written.
    """
    is_own = type(module).load_state_dict is not nn.Module.load_state_dict
    left_out = set() if is_own or is_partial else _names_to_load(module).difference(saves)
    left_out.update(later)
    if not is_partial and not left_out:
        module.load_state_dict(state)
        return
    result = module.load_state_dict(state, strict=False)
    if not is_partial:
        missing = [name for name in result.missing_keys if name not in left_out]
        if missing or result.unexpected_keys:
            raise RuntimeError(f"missing: {missing}; not expected: {result.unexpected_keys}")


def copy_back(live: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Give tensors the values they had: code that loads may make others of them each time."""
    with torch.no_grad():
        for name, tensor in live.items():
            value = state.get(name)
            if not isinstance(value, torch.Tensor) or tensor.layout is not torch.strided:
                continue
            if tensor.shape == value.shape and not torch.equal(tensor, value):
                tensor.copy_(value)


def _names_to_load(module: nn.Module) -> set[str]:
    """The names that torch's own code looks for in a state dict."""
    found: set[str] = set()
    for path, each in module.named_modules(remove_duplicate=False):
        dropped = each._non_persistent_buffers_set
        names = [name for name, value in each._parameters.items() if value is not None]
        names += [n for n, b in each._buffers.items() if b is not None and n not in dropped]
        names += ["_extra_state"] if _has_extra_state(each) else []
        found.update(f"{path}.{name}" if path else name for name in names)
    return found


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).set_extra_state is not nn.Module.set_extra_state


def sees_tensors(module: nn.Module) -> bool:
    """Whether some code of a module's own may look at tensors, its own or others, while it loads.

    One hook of one layer may: torch hands it what is missing anywhere, and the layers before it are
    loaded by then.
    """
    return not is_plain(module) or any(_has_extra_state(each) for each in module.modules())


def tried(module: nn.Module, state: Mapping[str, Any]) -> tuple[list[str], list[str]] | None:
    """The names that a module's own code would miss in a state, and those it would not expect.

    It is asked of a copy without memory, with tensors without memory: nothing is read, and the
    live module stays as it is. None where that cannot be done, as the code looks at numbers.
    """
    try:
        trial = _without_memory(module)
        bare = {name: _bare(value) for name, value in state.items()}
        result = trial.load_state_dict(bare, strict=False)
        return list(result.missing_keys), list(result.unexpected_keys)
    except Exception:  # code of others, on tensors that it was not written for
        return None


def _without_memory(module: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        made = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = (
            nn.Parameter(made, requires_grad=tensor.requires_grad) if is_parameter else made
        )
    return copy.deepcopy(module, memo)


def _bare(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value, device="meta")
    if isinstance(value, TensorRef):
        return torch.empty(value.shape, dtype=torch_dtype(value.dtype), device="meta")
    return value
