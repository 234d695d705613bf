"""Programs to read: written by torch itself."""

from __future__ import annotations

import io
import warnings

import torch


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.names, self.sizes, self.rates = ["a", "b"], [1, 2], [0.5]
        self.flags, self.limits, self.pair = [True], {"x": 1.5}, (1, "z")
        self.tensors = [torch.ones(1)]
        self.shift = torch.full((2,), 7.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.linear(x) + self.table + self.limits["x"] + self.sizes[0] + self.pair[0]
        return made + self.tensors[0] + self.rates[0] + self.shift.sum() + torch.ones(3)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.tied = torch.nn.Linear(2, 3)
        self.tied.weight = self.inner.linear.weight
        self.norm = torch.nn.BatchNorm1d(3)
        self.stack = torch.nn.Sequential(torch.nn.Linear(3, 3).bfloat16().float(), torch.nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stack(self.norm(self.inner(x) + self.tied(x)))


class Exportable(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        self.b.weight = self.a.weight
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("passing", torch.ones(3), persistent=False)
        base = torch.arange(8.0)
        self.register_buffer("whole", base)
        self.register_buffer("part", base[2:5])
        self.shift = torch.ones(3) * 5
        self.small = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.a(x) + self.b(x) + self.turned.sum() + self.passing + self.shift
        return made + self.small + self.part + self.whole.sum() + torch.tensor([1.0, 2.0, 3.0])


def scripted(*, freeze: bool = False, **options: object) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(Net().eval())
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.freeze(program) if freeze else program, buffer, **options)
    return buffer.getvalue()


def exported() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Exportable(), (torch.ones(4, 2),))
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={"note.txt": "hello"})
    return buffer.getvalue()
