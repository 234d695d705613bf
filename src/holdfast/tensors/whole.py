"""Whole models among what is loaded: which classes they need, and their weights without them."""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any

import torch

from holdfast.pickles.limits import nodes
from holdfast.pickles.modules import flags, is_module, with_state_dicts
from holdfast.spec.index import Index, Opaque
from holdfast.tensors.objects import CLOSED
from holdfast.tensors.trust import Trust

_LOGGER = logging.getLogger("holdfast")

#: Methods by which a class changes what goes into its state dict.
_METHODS = ("state_dict", "_save_to_state_dict", "get_extra_state")


def needed(tree: Any, trust: Trust) -> dict[str, str]:
    """The symbols that building a tree needs and nobody has trusted, with their modules."""
    opaques = (node for node in nodes(tree) if type(node) is Opaque and node.called is None)
    modules = {
        node.symbol: node.module for node in opaques if node.is_global or node.symbol not in CLOSED
    }
    return {symbol: module for symbol, module in modules.items() if not trust.has(symbol)}


def has_modules(tree: Any) -> bool:
    """Whether whole models stand in a tree."""
    return any(is_module(node) for node in nodes(tree))


def weights_of(index: Index, trust: Trust) -> Any:
    """The tree with state dicts in place of modules whose classes are not all trusted.

    What may be wrong with them is logged.

    Raises:
        RefusedError: a module is none.
    """
    tree = with_state_dicts(index.tree, file=index.file, keep=lambda node: not needed(node, trust))
    for note in flags(index.tree, file=index.file, overrides=overrides):
        _LOGGER.warning("%s: %s", index.file, note)
    return tree


def overrides(module: str, name: str) -> bool | None:
    """Whether a class changes what goes into its state dict; None where it is not imported.

    Only modules that are imported already are looked at, and nothing in them is run.
    """
    found: Any = sys.modules.get(module)
    for step in name.split("."):
        found = getattr(found, "__dict__", {}).get(step)
    if not isinstance(found, type) or not issubclass(found, torch.nn.Module):
        return None
    return any(
        inspect.getattr_static(found, method, None) is not torch.nn.Module.__dict__[method]
        for method in _METHODS
    )
