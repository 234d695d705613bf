"""What the ranks of a test do; each function is called as ``job(rank, ...)`` in each process."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset
from torch.utils.data.distributed import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import holdfast


def small_model() -> nn.Sequential:
    """The same weights in each process."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))


class Training:
    """A training on several ranks, with dropout, momentum, a schedule and a loader.

    ``kind`` is ``ddp`` or ``fsdp``.
    """

    def __init__(self, rank: int, kind: str = "ddp") -> None:
        self.plain = small_model()
        self.model: nn.Module = self.plain
        if kind == "ddp":
            self.model = DistributedDataParallel(self.plain)
        else:
            self.plain[1] = nn.LayerNorm(16)  # whose state is the same on all ranks
            fully_shard(self.plain, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.05)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        torch.manual_seed(100 + rank)
        random.seed(200 + rank)
        np.random.seed(300 + rank)
        data = TensorDataset(torch.linspace(-1, 1, 96 * 4).reshape(96, 4))
        sampler = DistributedSampler(data, shuffle=True, seed=3)
        self.loader = StatefulDataLoader(data, batch_size=4, sampler=sampler)
        self._batches: Any = None

    def parts(self) -> dict[str, Any]:
        """What a run keeps of it."""
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "loader": self.loader,
        }

    def step(self) -> float:
        """One batch, with random numbers of every kind."""
        if self._batches is None:
            self._batches = iter(self.loader)
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self.loader)
            batch = next(self._batches)
        noise = torch.rand(()) + random.random() + float(np.random.rand())
        loss = (self.model(batch[0]) * noise).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """All that must be the same after a resume."""
        return {
            **{name: _whole(tensor) for name, tensor in self.plain.state_dict().items()},
            "momentum": _whole(self.optimizer.state_dict()["state"][0]["exp_avg"]),
            "lr": self.scheduler.get_last_lr(),
            "torch": torch.rand(3),
            "python": random.random(),
            "numpy": float(np.random.rand()),
        }


def _whole(value: Any) -> torch.Tensor:
    whole: torch.Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.clone()


def train(
    rank: int, folder: str, stop: int, options: dict[str, Any], kind: str = "ddp"
) -> dict[str, Any]:
    """Train to ``stop`` in a run on this folder; the state at the end."""
    training = Training(rank, kind)
    losses = {}
    with holdfast.Run(folder, **options, **training.parts()) as run:
        for step in run.steps(stop):
            losses[step] = training.step()
            run.save(metrics={"loss": losses[step]})
        report = run.report
    return {
        "losses": losses,
        "state": training.state(),
        "left": () if report is None else report.not_restored,
    }


def train_without(rank: int, stop: int, kind: str = "ddp") -> dict[str, Any]:
    """The same without a run."""
    training = Training(rank, kind)
    losses = {step: training.step() for step in range(stop)}
    return {"losses": losses, "state": training.state()}


def _calls(rank: int, folder: str, where: str) -> None:
    if where != "Run" or rank == 0:
        run = holdfast.Run(folder, background=False, model=small_model())
        if where == "save" and rank == 0:
            run.save(1)
        if where == "other":
            run.save(1) if rank == 0 else run.prune(dry_run=False)
        if where == "step":
            run.save(1 + rank)
    dist.barrier()


def missing_call(rank: int, folder: str, where: str) -> str:
    """Ranks do not make the same calls: what the one that notices is told."""
    from holdfast.distributed import ranks

    ranks.Ranks.__init__.__kwdefaults__["patience"] = 2.0
    try:
        _calls(rank, folder, where)
    except holdfast.errors.RanksError as error:
        dist.barrier()
        return str(error)
    return ""


class Fails(nn.Module):
    """A model whose state cannot be read on some rank."""

    def __init__(self, is_broken: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.is_broken = is_broken

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As any other's, or an error."""
        if self.is_broken:
            raise ValueError("the state is gone")
        return super().state_dict(*args, **kwargs)


def failing_save(rank: int, folder: str, on: int) -> list[str]:
    """Saves of which one fails on one rank: the classes and texts of the errors."""
    model = Fails(False)
    said = []
    generator = np.random.default_rng(rank)
    run = holdfast.Run(folder, background=False, model=model, generator=generator)
    for step in (1, 2, 3):
        if step == 2 and rank == on:
            model.is_broken = True
            if rank:  # which gives nothing but its own generators
                object.__setattr__(run._parts["generator"], "live", "no generator")
        try:
            run.save(step)
        except holdfast.errors.HoldfastError as error:
            said.append(f"{type(error).__name__}: {error}")
        if step == 2 and rank == on:
            model.is_broken = False
            if rank:
                object.__setattr__(run._parts["generator"], "live", generator)
    run.close()
    return said


def save_for_ever(rank: int, folder: str, background: bool) -> str:
    """Save until another rank has ended; what this one is told then."""
    model = nn.Linear(500, 500)
    run = holdfast.Run(folder, background=background, model=model)
    try:
        for step in range(1, 100_000):
            run.save(step)
    except holdfast.errors.HoldfastError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def stopped(rank: int, folder: str, seconds: float, every: int | None) -> None:
    """Steps that take so long, until a signal comes to one of the ranks."""
    import time

    schedule = None if every is None else holdfast.every(steps=every)
    with holdfast.Run(folder, every=schedule, model=small_model()) as run:
        for step in run.steps(10**6):
            time.sleep(seconds * (1 + rank))
            if step == 3:
                Path(f"{folder}.{rank}").touch()
            run.save()


def by_the_clock(rank: int, folder: str) -> list[int]:
    """Saves by minutes, with clocks that differ: the steps that were saved here."""
    import time

    saved = []
    schedule = holdfast.every(minutes=0.01 if rank == 0 else 1000)
    with holdfast.Run(folder, every=schedule, background=False, model=small_model()) as run:
        for step in range(1, 60):
            time.sleep(0.03)
            if run.save(step) is not None:
                saved.append(step)
    return saved


def another_folder(rank: int, folder: str, what: str) -> str:
    """Rank 1 has another folder, or another state of it."""
    from holdfast.distributed import writing

    if what == "name":
        folder = f"{folder}{rank}"
    if what == "content" and rank == 1:
        lags = writing._nbytes
        writing._nbytes = lambda path: None if path.name.endswith("2.pt") else lags(path)
    try:
        run = holdfast.Run(folder, background=False, model=small_model())
        run.resume()
    except holdfast.errors.HoldfastError as error:
        return str(error)
    return ""


def resumed(
    rank: int, folder: str, damage_on: int | None, which: int | str = "latest"
) -> dict[str, Any]:
    """Resume, with a reader that finds the newest checkpoint damaged on one rank."""
    from holdfast import restoring

    if rank == damage_on:
        verify = restoring._verify

        def damaged(index: Any, *given: Any) -> None:
            if index.file.endswith("2.pt"):
                raise holdfast.errors.DamagedError("these bytes are not those", file=index.file)
            verify(index, *given)

        restoring._verify = damaged
    model = small_model()
    with torch.no_grad():
        model[0].weight.zero_()
    following, error = None, ""
    with holdfast.Run(folder, model=model) as run:
        try:
            following = run.resume(which)
        except holdfast.errors.HoldfastError as caught:
            error = str(caught)
    return {"next": following, "sum": float(model[0].weight.abs().sum().item()), "error": error}


def left_behind(rank: int, folder: str, kind: str) -> tuple[int, tuple[str, ...], float]:
    """Resume with another number of ranks: the next step, what was lost, a random number."""
    training = Training(rank, kind)
    with holdfast.Run(folder, **training.parts()) as run:
        following = run.resume()
        assert run.report is not None
        return following, run.report.not_restored, torch.rand(()).item()


def pruned(rank: int, folder: str) -> list[str]:
    """What all ranks are told of a pruning."""
    keep = holdfast.keep.latest(9)
    with holdfast.Run(folder, keep=keep, background=False, model=small_model()) as run:
        for step in range(1, 6):
            run.save(step)
        run._writer.keep = holdfast.keep.latest(2)
        plan = run.prune(dry_run=False)
        return sorted(entry.name for entry in plan.doomed)


def _impatient() -> None:
    from holdfast.distributed import ranks

    ranks.Ranks.__init__.__kwdefaults__["patience"] = 1.0
    ranks._LONGER = 0.5


def slow_write(rank: int, folder: str) -> int | None:
    """A save that takes longer to write than a rank may be late."""
    import time

    from holdfast.saving import writing

    _impatient()
    save_file = writing.save_file
    if rank == 0:
        writing.save_file = lambda *a, **k: (time.sleep(3), save_file(*a, **k))[1]
    with holdfast.Run(folder, background=False, model=small_model()) as run:
        run.save(1)
        run.save(2)
        newest = run.latest()
    return None if newest is None else newest.step


def left_the_loop(rank: int, folder: str) -> str:
    """Rank 0 leaves its loop by itself, and lives on."""
    with holdfast.Run(folder, background=False, model=small_model()) as run:
        try:
            for step in run.steps(1000):
                if rank == 0 and step == 3:
                    break
        except holdfast.errors.RanksError as error:
            dist.barrier()
            return str(error)
    dist.barrier()
    return ""


def failed_behind(rank: int, folder: str) -> list[tuple[int, str]]:
    """A save that fails behind the training, on rank 0: at which step each rank is told."""
    import resource
    import time

    told = []
    model = nn.Linear(300, 300)
    with holdfast.Run(folder, every=holdfast.every(steps=5), model=model) as run:
        for step in range(1, 24):
            if step == 9 and rank == 0:  # files may have no more bytes: EFBIG
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            if step == 12 and rank == 0:
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
            if step == 13:
                time.sleep(0.3)
            try:
                run.save(step)
            except holdfast.errors.HoldfastError as error:
                told.append((step, type(error).__name__))
            dist.all_reduce(torch.ones(1))
        run.wait()
    return told


def told_at_the_end(rank: int, folder: str) -> str:
    """Rank 1 is told to stop in its last step, which is over on rank 0."""
    import os
    import signal as signals
    import time

    with holdfast.Run(folder, model=small_model()) as run:
        for step in run.steps(4):
            if rank == 1 and step == 3:
                time.sleep(0.7)
                os.kill(os.getpid(), signals.SIGTERM)
            run.save()
    return "the end"


def started_elsewhere(rank: int, folder: str, sources: list[str]) -> tuple[int, float]:
    """Begin from what each rank sees for itself: where it goes on, with which weights."""
    model = small_model()
    with holdfast.Run(folder, start_from=sources[rank], model=model) as run:
        return run.resume(), float(model[0].weight.sum().item())


def slower(rank: int, folder: str) -> None:
    """Many fast steps, then slow ones, in which a signal comes."""
    import time

    with holdfast.Run(folder, every=holdfast.every(steps=10**6), model=small_model()) as run:
        for step in run.steps(10**6):
            if step > 2000:
                Path(f"{folder}.{rank}").touch()
                time.sleep(0.1)


def own_shares(rank: int, folder: str) -> dict[str, Any]:
    """What each rank loads of what each had for itself, by ``run.load``."""
    generator = torch.Generator().manual_seed(rank)
    model = small_model()
    with holdfast.Run(folder, background=False, model=model, generator=generator) as run:
        run.save(1)
        wanted = torch.rand(2, generator=generator)
        fresh = torch.Generator()
        report = run.load(generator=fresh)
        return {
            "same": torch.equal(torch.rand(2, generator=fresh), wanted),
            "left": report.not_restored,
        }


def odd_extra(rank: int, folder: str) -> str:
    """Rank 1 has in ``extra`` what cannot be saved."""
    with holdfast.Run(folder, background=False, model=small_model()) as run:
        run.extra["odd"] = object() if rank == 1 else 1
        try:
            run.save(1)
        except holdfast.errors.HoldfastError as error:
            return f"{type(error).__name__}: {error}"
    return ""


def slow_to_end(rank: int, folder: str) -> str:
    """Rank 1 comes to the end later than rank 0, which may be the one that keeps the store."""
    import time

    with holdfast.Run(folder, model=small_model()) as run:
        for step in run.steps(3):
            if rank == 1 and step == 2:
                time.sleep(1.5)
            run.save(metrics={"loss": 1.0 if rank == 0 else object()})
    return "the end"


def destroyed(rank: int, folder: str) -> list[str]:
    """The threads that are there some seconds after the process group was destroyed."""
    import threading
    import time

    with holdfast.Run(folder, background=False, model=small_model()) as run:
        run.save(1)
    del run
    dist.destroy_process_group()
    for _ in range(60):
        names = [thread.name for thread in threading.enumerate()]
        if "holdfast-alive" not in names:
            break
        time.sleep(0.1)
    return names


def stopped_twice(rank: int, folder: str) -> list[int]:
    """Stopped, caught, and begun again: the steps of the second loop."""
    import os
    import signal as signals

    run = holdfast.Run(folder, background=False, model=small_model())
    try:
        for step in run.steps(1000):
            if step == 2 and rank == 1:
                os.kill(os.getpid(), signals.SIGTERM)
    except SystemExit as stop:
        if stop.code != 75:
            raise
    last = run.latest()
    assert last is not None
    assert last.step is not None
    return [step - last.step for step in run.steps(last.step + 30)]


def two_of_one_name(rank: int, folder: str) -> tuple[str, float]:
    """Rank 1 reads another file than rank 0 under the same name: what is said, the weights."""
    from holdfast import restoring

    if rank == 1:
        restoring.where = SimpleNamespace(resolve=lambda _: Path(f"{folder}.other"))
    model = small_model()
    with torch.no_grad():
        model[0].weight.zero_()
    said = ""
    try:
        with holdfast.Run(folder, model=model) as run:
            run.resume()
    except holdfast.errors.HoldfastError as error:
        said = str(error)
    return said, float(model[0].weight.abs().sum().item())


def keys_left(rank: int, folder: str) -> int:
    """How many more notes lie on the board after forty saves than after ten."""
    counts = []
    store = dist.distributed_c10d._get_default_store()
    with holdfast.Run(folder, background=False, model=small_model()) as run:
        for step in range(1, 51):
            run.save(step)
            if step in (10, 50):
                dist.barrier()
                counts.append(store.num_keys())
                dist.barrier()
    return counts[1] - counts[0]
