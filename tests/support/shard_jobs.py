"""What the ranks of a test do with models whose parameters are sharded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import holdfast
from holdfast.state.sharding import share_like


class Net(nn.Module):
    """Layers of odd sizes, a buffer, and a parameter that is nobody's layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 14)
        self.norm = nn.BatchNorm1d(14)
        self.down = nn.Linear(14, 5)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Any) -> Any:
        """A number for each of five outputs."""
        return self.down(torch.relu(self.norm(self.up(x)))) * self.scale


def make(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and an optimizer, both spread over the ranks as ``kind`` says."""
    torch.manual_seed(11)
    model: nn.Module = Net()
    size = dist.get_world_size() if dist.is_initialized() else 1
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (size,))
        fully_shard(model.up, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "tp":
        mesh = init_device_mesh("cpu", (size,))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh, plan)
    elif kind == "2d":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("data", "tensors"))
        plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
        parallelize_module(model, mesh["tensors"], plan)
        fully_shard(model, mesh=mesh["data"])
    elif kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("copies", "shards"))
        fully_shard(model, mesh=mesh)
    elif kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        assert kind == "plain"
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def one_step(kind: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step whose gradients are the same numbers on any number of ranks."""
    for number, parameter in enumerate(model.parameters()):
        whole = torch.arange(float(parameter.numel())).reshape(parameter.shape) + number
        parameter.grad = _like(whole, parameter)
    optimizer.step()
    optimizer.zero_grad()


def _like(whole: torch.Tensor, parameter: Any) -> Any:
    if not isinstance(parameter, DTensor):
        return whole
    if len(parameter.placements) > 1:  # distribute_tensor does not know uneven strided shards
        return share_like(whole, parameter)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


def whole(value: Any) -> Any:
    """All elements of what may be spread."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All values, whole, by plain names; the optimizer's by position."""
    plain = getattr(model, "module", model)
    found = {name: whole(value).clone() for name, value in plain.state_dict().items()}
    for at, kept in optimizer.state_dict()["state"].items():
        found |= {f"{at}.{name}": whole(value).clone() for name, value in kept.items()}
    return found


def save_with_dcp(rank: int, folder: str, kind: str) -> dict[str, torch.Tensor]:
    """What torch.distributed.checkpoint writes of a trained model; the values."""
    model, optimizer = make(kind)
    one_step(kind, model, optimizer)
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    dcp.save(tree, checkpoint_id=folder)
    return state(model, optimizer)


def save_with_run(rank: int, folder: str, kind: str) -> dict[str, torch.Tensor]:
    """The same by a run, behind the training; the values."""
    model, optimizer = make(kind)
    one_step(kind, model, optimizer)
    wanted = state(model, optimizer)
    with holdfast.Run(folder, model=model, optimizer=optimizer) as run:
        run.extra["odd"] = {1: "one", "two": [(2, torch.arange(3))]}
        run.save(0, metrics={"loss": 0.5})
        one_step(kind, model, optimizer)  # what is written is the state at the call
    return wanted


def load(rank: int, paths: list[str], kind: str) -> list[dict[str, Any]]:
    """Of each path the values after loading it into an arrangement, and after one more step."""
    return [_loaded(path, kind) for path in paths]


def _loaded(path: str, kind: str) -> dict[str, Any]:
    model, optimizer = make(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    report = holdfast.load_state(path, model=model, optimizer=optimizer)
    loaded, first = state(model, optimizer), optimizer.state_dict()["state"][1]
    one_step(kind, model, optimizer)
    return {
        "loaded": loaded,
        "stepped": state(model, optimizer),
        "kinds": {name: type(value).__name__ for name, value in first.items()},
        "left": report.not_restored,
    }


def resume_each(rank: int, paths: list[str], kind: str) -> list[dict[str, torch.Tensor]]:
    """Of each run the values after resuming it in an arrangement."""
    found = []
    for path in paths:
        model, optimizer = make(kind)
        with holdfast.Run(path, model=model, optimizer=optimizer) as run:
            run.resume()
        found.append(state(model, optimizer))
    return found


def save_three(rank: int, folder: str) -> None:
    """Three checkpoints by a run."""
    model, optimizer = make("fsdp")
    with holdfast.Run(folder, background=False, model=model, optimizer=optimizer) as run:
        for step in range(3):
            run.save(step)


def resumed_step(rank: int, folder: str) -> str:
    """The checkpoint that is resumed."""
    model, optimizer = make("fsdp")
    with holdfast.Run(folder, model=model, optimizer=optimizer) as run:
        run.resume()
        return run.report.source


def save_rows(rank: int, folder: str, dtype: torch.dtype) -> None:
    """A large tensor, cut into rows, by a run."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    weight = torch.arange(1031.0 * 6144).reshape(1031, 6144).to(dtype)
    model = nn.Module()
    model.register_parameter("weight", nn.Parameter(distribute_tensor(weight, mesh, [Shard(0)])))
    with holdfast.Run(folder, model=model) as run:
        run.save(0)


def bytes_read(rank: int, path: str, way: str, dtype: torch.dtype) -> tuple[int, int, bool]:
    """Bytes that are read into a share of a large tensor, those it has, and whether it is right."""
    import os

    from holdfast import restoring

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    placement = {"rows": Shard(0), "columns": Shard(1), "copies": Replicate()}[way]
    model = nn.Module()
    empty = distribute_tensor(torch.zeros(1031, 6144, dtype=dtype), mesh, [placement])
    model.register_parameter("weight", nn.Parameter(empty))
    read, preadv, read_into = 0, os.preadv, restoring.read_into

    def counted(fd: int, buffers: Any, offset: int) -> int:
        nonlocal read
        count = preadv(fd, buffers, offset)
        read += count
        return count

    def reading(*args: Any) -> None:
        os.preadv = counted
        try:
            read_into(*args)
        finally:
            os.preadv = preadv

    restoring.read_into = reading
    holdfast.load_state(path, model=model)
    weight: Any = model.weight
    local = weight.to_local()
    wanted = torch.arange(1031.0 * 6144).reshape(1031, 6144).to(dtype)
    is_right = torch.equal(weight.full_tensor(), wanted)
    return read, local.nbytes, is_right


def refused(rank: int, path: str) -> str:
    """A checkpoint whose tensor has another shape: what is said."""
    model, _ = make("fsdp")
    before = model.state_dict()["up.weight"].to_local().clone()
    try:
        holdfast.load_state(path, model=model)
    except holdfast.errors.MismatchError as error:
        assert torch.equal(model.state_dict()["up.weight"].to_local(), before)
        return str(error)
    return ""


def saved_and_resumed(rank: int, folder: str, kind: str, background: bool) -> Any:
    """The state before it was saved by a run, and after a step and a resume; what is reported."""
    model, optimizer = make(kind)
    one_step(kind, model, optimizer)
    with holdfast.Run(folder, background=background, model=model, optimizer=optimizer) as run:
        run.extra["odd"] = {1: "one", "two": [(2, torch.arange(3))]}
        run.save(0, metrics={"loss": 0.5})
        before = state(model, optimizer)
        one_step(kind, model, optimizer)
        run.extra.clear()
        assert run.resume() == 1
        assert repr(run.extra) == "{'odd': {1: 'one', 'two': [(2, tensor([0, 1, 2]))]}}"
        assert run.report is not None
        return before, state(model, optimizer), run.report.not_restored


def refused_as_a_file(rank: int, folder: str) -> str:
    """A model that is spread, saved as what one process has: what is said."""
    model, _ = make("fsdp")
    try:
        holdfast.save_state(f"{folder}/{rank}.pt", model=model)
    except holdfast.errors.CaptureError as error:
        return str(error)
    return ""


def load_with_dcp(rank: int, folder: str, kind: str) -> dict[str, torch.Tensor]:
    """What torch's own code loads of a folder into an arrangement."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, optimizer = make(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.load(states, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=states["model"],
        optim_state_dict=states["optimizer"],
    )
    return state(model, optimizer)


def without_memory(rank: int, path: str) -> str:
    """A sharded model on the meta device: what is said."""
    with torch.device("meta"):
        model = Net()
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    try:
        holdfast.load_state(path, model=model)
    except holdfast.errors.MismatchError as error:
        return str(error)
    return ""


def save_by_names_with_dcp(rank: int, folder: str) -> None:
    """The state of ``save_with_run``, as torch's own code saves it: the optimizer's by names."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizer = make("fsdp")
    one_step("fsdp", model, optimizer)
    states = zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True)
    dcp.save(dict(states), checkpoint_id=folder)


def save_large(rank: int, folder: str) -> None:
    """Two large weights, each halved over two ranks, in two copies."""
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False))
    fully_shard(model, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards")))
    with holdfast.Run(folder, model=model) as run:
        run.save(0)


def save_twice(rank: int, folder: str) -> None:
    """Two checkpoints of the same names and sizes, with other values."""
    model, optimizer = make("fsdp")
    one_step("fsdp", model, optimizer)
    with holdfast.Run(folder, model=model, optimizer=optimizer) as run:
        for step in range(2):
            one_step("fsdp", model, optimizer)
            run.save(step)


def save_many(rank: int, folder: str, count: int) -> list[str]:
    """Some steps, of which two are kept; the names of those."""
    model, optimizer = make("fsdp")
    keep = holdfast.keep.latest(2)
    with holdfast.Run(folder, keep=keep, model=model, optimizer=optimizer) as run:
        for _ in run.steps(count):
            one_step("fsdp", model, optimizer)
            run.save()
        run.wait()
        dist.barrier()
        return [entry.name for entry in run.checkpoints()]


def resume_hostile(rank: int, folder: str) -> tuple[str, str]:
    """What resuming says, and what was printed meanwhile."""
    import contextlib
    import io

    model, optimizer = make("fsdp")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            holdfast.Run(folder, model=model, optimizer=optimizer).resume()
        except holdfast.errors.NoCheckpointError as error:
            return str(error), printed.getvalue()
    return "", printed.getvalue()


def _large() -> nn.Module:
    """Two weights of 4 MiB, in shards."""
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return model


def _fill(model: nn.Module, number: float) -> None:
    for parameter in model.parameters():
        parameter.detach().to_local().fill_(number)  # type: ignore[attr-defined]


def save_until_killed(rank: int, folder: str, background: bool) -> None:
    """Resume, and go on for ever; every element is the number of the step."""
    model = _large()
    keep = holdfast.keep.latest(2)
    with holdfast.Run(folder, keep=keep, background=background, model=model) as run:
        for step in run.steps(1_000_000):
            for parameter in model.parameters():
                local: Any = parameter.detach().to_local()  # type: ignore[attr-defined]
                assert step == 0 or bool((local == step - 1).all()), "resumed something else"
            _fill(model, step)
            run.save()


def save_on_a_small_disk(rank: int, folder: str, on: int, background: bool) -> list[str]:
    """The file of one rank may not grow beyond a MiB: what each says, and what is left."""
    import resource
    import signal

    model = _large()
    _fill(model, 0)
    said = []
    with holdfast.Run(folder, background=background, model=model) as run:
        run.save(0, wait=True)
        if rank == on:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            run.save(1, wait=True)
        except holdfast.errors.HoldfastError as error:
            said.append(f"{type(error).__name__}: {error}")
        if rank == on:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        dist.barrier()
        said += sorted(path.name for path in Path(folder).iterdir())
        dist.barrier()
        run.save(1, wait=True)  # and it can be saved when there is room again
        assert run.resume() == 2
    return said


def save_for_a_while(rank: int, folder: str) -> list[float]:
    """The training goes on behind a save whose disk is slow; its collectives as well."""
    model = _large()
    with holdfast.Run(folder, model=model) as run:
        run.save(0)
        seen = []
        for number in range(20):
            total = torch.tensor([float(number)])
            dist.all_reduce(total)
            seen.append(float(total))
        run.wait()
    return seen


def save_on_some(rank: int, folder: str) -> str:
    """`if rank == 0: run.save()`, with a model that is spread."""
    from holdfast.distributed import ranks

    ranks.PATIENCE = 1.0
    model = _large()
    run = holdfast.Run(folder, model=model)
    assert run._ranks is not None
    run._ranks.patience = 1.0
    try:
        if rank == 0:
            run.save(0)
        else:
            dist.barrier()
    except holdfast.errors.RanksError as error:
        dist.barrier()
        return str(error)
    return ""


def save_other_parts(rank: int, folder: str) -> str:
    """A rank whose model has another layer: what each is told."""
    model = nn.Sequential(nn.Linear(4, 4), *([nn.Linear(4, 4)] if rank else []))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    run = holdfast.Run(folder, model=model)
    try:
        run.save(0)
    except holdfast.errors.RanksError as error:
        return str(error)
    return ""


def save_on_a_full_disk(rank: int, folder: str, is_new: bool) -> list[str]:
    """Saves on a disk that is full at one of them, and has room again: what each says.

    That one is the first, or the first with an optimizer's state.
    """
    model = _large()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    said = []
    filler = Path(folder).parent / "filler"
    with holdfast.Run(folder, keep=None, model=model, optimizer=optimizer) as run:
        if not is_new:
            run.save(0, wait=True)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        dist.barrier()
        if rank == 0:
            with filler.open("wb") as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 20))
                    file.flush()
        dist.barrier()
        try:
            run.save(1, wait=True)
        except holdfast.errors.HoldfastError as error:
            said.append(f"{type(error).__name__}: {error}")
        dist.barrier()
        if rank == 0:
            filler.unlink()
        dist.barrier()
        for step in (2, 3):
            run.save(step, wait=True)
    return said


def save_twice_the_same(rank: int, folder: str) -> int:
    """A step that is saved already is saved again first of all, then others."""
    model, optimizer = make("fsdp")
    with holdfast.Run(folder, model=model, optimizer=optimizer) as run:
        run.save(1)
    with holdfast.Run(folder, model=model, optimizer=optimizer) as run:
        run.resume()
        assert run.save(1) is None
        one_step("fsdp", model, optimizer)
        run.save(2)
        one_step("fsdp", model, optimizer)
        run.save(3)
        return run.resume()


class Odd(nn.Module):
    """A parameter without elements that is spread along its other axis, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        empty = distribute_tensor(torch.zeros(0, 4), mesh, [Shard(1)])
        self.empty = nn.Parameter(empty)
        self.full = nn.Parameter(distribute_tensor(torch.ones(3, 4), mesh, [Shard(1)]))
        self.plain = nn.Linear(600, 600)  # another on each rank
        with torch.no_grad():
            for parameter in self.plain.parameters():
                parameter.fill_(dist.get_rank())


def save_odd(rank: int, folder: str) -> list[float]:
    """Save and resume it: the values of what is not spread."""
    model = Odd()
    with holdfast.Run(folder, model=model) as run:
        run.save(0, wait=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(9)
        run.resume()
        assert bool((whole(model.full) == 1).all())
    return sorted({float(v) for p in model.plain.parameters() for v in p.flatten()[:5]})


def keep_an_average(rank: int, folder: str, where: str) -> str:
    """Shares of a model as something else than a module: what is said."""
    model, _ = make("fsdp")
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    class Average:
        def state_dict(self) -> Any:
            return average

        def load_state_dict(self, state: Any) -> None:
            average.update(state)

    try:
        if where == "part":
            holdfast.Run(folder, model=model, average=Average())
        else:
            with holdfast.Run(folder, model=model) as run:
                run.extra["average"] = average
                run.save(0)
    except holdfast.errors.CaptureError as error:
        return str(error)
    except holdfast.errors.RanksError as error:
        return str(error.error)
    return ""


def count_renames(rank: int, folder: str, count: int) -> list[str]:
    """Save again and again: the names that this rank has given to anything."""
    import os

    named: list[str] = []

    def counted(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and folder in os.fspath(args[1]):
            named.append(Path(os.fspath(args[1])).name)

    import sys

    sys.addaudithook(counted)
    model = _large()
    with holdfast.Run(folder, keep=holdfast.keep.latest(count), model=model) as run:
        for step in range(count):
            run.save(step)
    return named


def load_what_was_on_a_gpu(rank: int, path: str) -> list[str]:
    """Where everything is after a resume of what says that it was on GPU 0."""
    model, optimizer = make("fsdp")
    holdfast.load_state(path, model=model, optimizer=optimizer)
    found = [each.device for each in model.parameters()]
    found += [v.device for kept in optimizer.state.values() for v in kept.values()]
    return sorted({str(device) for device in found})


def save_without_collectives(rank: int, folder: str) -> tuple[int, int]:
    """How many collectives a save and a resume make, and notes of them that are left."""
    from torch.distributed.tensor.debug import CommDebugMode

    model, optimizer = make("fsdp")
    one_step("fsdp", model, optimizer)
    run = holdfast.Run(folder, model=model, optimizer=optimizer)
    made, left = 0, []
    for steps in range(3), range(3, 9):
        with CommDebugMode() as seen:
            for step in steps:
                run.save(step, wait=True)
            run.resume()
        made += seen.get_total_counts()
        dist.barrier()  # a rank takes its last note away when rank 0 has gone on
        left.append(dist.distributed_c10d._get_default_store().num_keys())
        dist.barrier()
    run.close()
    dist.barrier()
    return made, left[1] - left[0]


def save_addends(rank: int, folder: str) -> str:
    """A parameter whose processes have addends of it: what is said."""
    from torch.distributed.tensor import Partial

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Module()
    weight = DTensor.from_local(torch.ones(3), mesh, [Partial()])
    model.register_parameter("weight", nn.Parameter(weight))
    try:
        holdfast.Run(folder, model=model)
    except holdfast.errors.CaptureError as error:
        return str(error)
    return ""


def save_little(rank: int, folder: str, background: bool) -> tuple[bool, list[str]]:
    """A model with fewer rows than there are ranks: whether it is resumed, and the files."""
    torch.manual_seed(3)
    model = nn.Linear(3, 2)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    one_step("fsdp", model, optimizer)
    with holdfast.Run(folder, background=background, model=model, optimizer=optimizer) as run:
        run.save(0, wait=True)
        before = state(model, optimizer)
        one_step("fsdp", model, optimizer)
        run.resume()
        after = state(model, optimizer)
    is_same = all(torch.equal(value, after[name]) for name, value in before.items())
    return is_same, sorted(path.name for path in (Path(folder) / "step-00000000").iterdir())
