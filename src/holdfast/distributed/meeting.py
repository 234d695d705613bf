"""Whether this process is one of several, and the board where they meet."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

from holdfast.distributed.board import Board
from holdfast.distributed.ranks import Ranks
from holdfast.errors import UsageError

#: The board of each store, and how many runs were made on it.
_boards: weakref.WeakKeyDictionary[Any, Board] = weakref.WeakKeyDictionary()
_runs: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def meet(folder: Path) -> Ranks | None:
    """The ranks of this training, when all of them make a run on this folder; None for one alone.

    Raises:
        RanksError: one of them does not, or makes another run.
        UsageError: several were started, and they do not know of each other yet.
    """
    if not is_one_of_several():
        _check_alone()
        return None
    store = distributed_c10d._get_default_store()
    if store not in _boards:
        _boards[store] = Board(store, dist.get_rank(), dist.get_world_size())
    number = _runs[store] = _runs.get(store, 0) + 1
    ranks = Ranks(_boards[store], f"run{number}")
    ranks.agree(f"holdfast.Run({str(folder)!r})", lambda: None, lambda _: None)
    return ranks


def is_one_of_several() -> bool:
    """Whether other processes are at the same training, and known to this one."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _check_alone() -> None:
    started = os.environ.get("WORLD_SIZE", "1")
    if (
        dist.is_available()
        and not dist.is_initialized()
        and dist.is_torchelastic_launched()
        and started != "1"
    ):
        raise UsageError(
            f"torchrun started {started} processes, and they do not know of each other yet",
            cure="Before holdfast.Run(...) call torch.distributed.init_process_group().",
        )
