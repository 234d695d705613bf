"""Several processes of one training, started by a test: gloo, on this machine.

They are forked from a server that has imported torch once. Their store is the test's own, so that
it outlives each of them. What they do is a function of a module in ``tests/support``.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [
        *("torch", "torch.distributed.tensor.parallel", "torch.distributed.fsdp"),
        *("torch.distributed.checkpoint.state_dict", "torchdata.stateful_dataloader"),
        "holdfast.run",
    ]
)


@dataclass
class Ended:
    """How one rank ended: its value or the error it raised, or its exit code alone."""

    value: Any = None
    error: BaseException | None = None
    trace: str = ""
    exit_code: int | None = None


class Group:
    """``size`` processes that each call ``job(rank, *args)``; rank 0 may host the store."""

    def __init__(
        self, size: int, job: Callable[..., Any], *args: Any, rank_0_hosts: bool = False
    ) -> None:
        self._store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=120)
        )
        free = free_port() if rank_0_hosts else 0
        self.size = size
        self._pipes, self._processes = [], []
        for rank in range(size):
            ours, theirs = _server.Pipe(duplex=False)
            port = free if rank_0_hosts else self._store.port
            given = (theirs, port, rank, size, job, args, rank_0_hosts and rank == 0)
            process = _server.Process(target=_run, args=given)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def pid(self, rank: int) -> int:
        """The process of a rank."""
        pid = self._processes[rank].pid
        assert pid is not None
        return pid

    def send(self, rank: int, number: signal.Signals) -> None:
        """Send a signal to one rank."""
        os.kill(self.pid(rank), number)

    def ends(self, seconds: float = 120) -> list[Ended]:
        """Wait for all; whoever has not ended by then is killed, and the test fails."""
        until = time.monotonic() + seconds
        found = []
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            try:
                there = pipe.poll(max(0.0, until - time.monotonic()))
                ended = pickle.loads(pipe.recv_bytes()) if there else None
            except EOFError:
                ended = Ended()
            process.join(max(0.1, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
                ended = ended or Ended(error=TimeoutError("it hung"))
            ended = ended or Ended()
            ended.exit_code = process.exitcode
            found.append(ended)
        return found

    def values(self, seconds: float = 120) -> list[Any]:
        """What each rank returned; an error of one is the test's."""
        ended = self.ends(seconds)
        for rank, each in enumerate(ended):
            if each.error is not None or each.exit_code != 0:
                raise AssertionError(f"rank {rank} ({each.exit_code}): {each.trace or each.error}")
        return [each.value for each in ended]


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _run(
    pipe: Any, port: int, rank: int, size: int, job: Callable[..., Any], args: Any, hosts: bool
) -> None:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=hosts, wait_for_workers=False)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    ended = Ended()
    try:
        ended.value = job(rank, *args)
    except BaseException as error:
        ended.error, ended.trace = error, traceback.format_exc()
        if isinstance(error, SystemExit):
            pipe.send_bytes(pickle.dumps(ended))
            raise
    pipe.send_bytes(pickle.dumps(ended))
