"""Memory that CUDA knows, on a machine without a GPU: CUDA's own part is played by a record of it.

What only a GPU shows stands in tests/run/test_on_gpu.py.
"""

from __future__ import annotations

import gc
import os

import pytest
import torch

import holdfast
from holdfast.errors import SaveFailedError
from holdfast.saving import devices

_ON_GPU = torch.device("cuda", 0)
_ON_CPU = None


class Runtime:
    """What CUDA is told; ``status`` is what it answers."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        assert flags == 1
        if self.status == 0:
            self.pinned[address] = nbytes
        return self.status

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.pinned[address]
        return 0


@pytest.fixture
def runtime(monkeypatch) -> Runtime:
    def check_error(status: int) -> None:
        if status != 0:
            raise RuntimeError(f"CUDA error: {status}")

    made = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "check_error", check_error)
    return made


def test_an_arena_is_pinned_whole_and_no_larger_until_nobody_has_it(runtime) -> None:
    arena = devices.arena_for(_ON_GPU, (5 << 20) + 1)
    assert list(runtime.pinned.values()) == [arena.nbytes] == [(5 << 20) + 4096]
    arena.memory[0] = 1
    del arena
    gc.collect()
    assert runtime.pinned == {}


def test_a_child_that_lets_go_of_it_tells_cuda_nothing(runtime) -> None:
    arena = devices.arena_for(_ON_GPU, 1 << 20)
    child = os.fork()
    if child == 0:
        del arena
        os._exit(len(runtime.pinned))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert arena.nbytes == 1 << 20


def test_nothing_is_pinned_without_a_gpu(runtime) -> None:
    devices.arena_for(_ON_CPU, 1 << 20)
    assert runtime.pinned == {}


def test_where_none_can_be_pinned_the_arena_serves_all_the_same(
    runtime, caplog, monkeypatch
) -> None:
    """CUDA has the next kernel report what failed: one is started that nobody needs."""
    started = []
    monkeypatch.setattr(torch, "ones", lambda *_, device: started.append(device))
    runtime.status = 2
    arena = devices.arena_for(_ON_GPU, 1 << 20)
    assert started == [torch.device("cuda", 0)]
    assert arena.nbytes == 1 << 20
    assert "no memory can be pinned, so copies from GPUs are slower: CUDA error: 2" in caplog.text


def test_a_copy_that_cuda_breaks_off_is_a_save_that_failed(tmp_path) -> None:
    class Stream:
        def synchronize(self) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    class Hurried(devices.DeviceCopies):
        def queued(self) -> None:
            self._streams[torch.device("cuda")] = Stream()  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdfast.saving.copied.DeviceCopies", Hurried)
        run = holdfast.Run(tmp_path, model=torch.nn.Linear(3, 3))
        run.save(0)
        with pytest.raises(SaveFailedError) as caught:
            run.wait()
    assert str(caught.value).splitlines()[:2] == [
        "the save of step 0 has failed",
        "  found RuntimeError: CUDA error: an illegal memory access was encountered",
    ]
    run.save(0, wait=True)
    run.close()


def test_a_copy_that_breaks_off_before_it_is_written_is_one_too(tmp_path, monkeypatch) -> None:
    """The save fails for another reason; what CUDA says comes when its memory is let go of."""

    class Broken(devices.DeviceCopies):
        def wait(self) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr("holdfast.saving.copied.DeviceCopies", Broken)
    run = holdfast.Run(tmp_path, model=torch.nn.Linear(3, 3))
    run.save(0)
    with pytest.raises(SaveFailedError, match="the save of step 0 has failed"):
        run.wait()
    run.close()


def test_an_arena_of_a_state_that_moves_to_a_gpu_is_made_anew_once(runtime) -> None:
    arena = devices.arena_for(_ON_CPU, 1 << 20)
    assert devices.suits(arena, _ON_CPU)
    assert not devices.suits(arena, _ON_GPU)
    pinned = devices.arena_for(_ON_GPU, 1 << 20)
    assert devices.suits(pinned, _ON_GPU)
    assert devices.suits(pinned, _ON_CPU)
