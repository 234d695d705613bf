"""What is saved and loaded: live parts of a training, of several sizes and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from holdfast.benchmark import names


@dataclass(frozen=True, slots=True)
class Workload:
    """Live parts by name."""

    name: str
    parts: Mapping[str, Any]

    def state(self) -> dict[str, Any]:
        """The state dicts by name, as a script would give them to torch.save."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor of the state by its dotted name."""
        return dict(_walk(self.state(), ""))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())


def _walk(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _walk(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _walk(each, f"{name}.{number}")


def _tensors(count: int, numel: int) -> nn.Module:
    # Filled: pages that nobody wrote are all one page, which no real state is.
    filled = (torch.empty(numel).uniform_(-1, 1) for _ in range(count))
    return nn.ParameterList(nn.Parameter(each) for each in filled)


class Block(nn.Module):
    """One block of GPT-2: attention and MLP, without dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape [batch, tokens, width], and back."""
        heads = self.c_attn(self.ln_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.c_proj(attended.transpose(1, 2).flatten(-2))
        changed: torch.Tensor = x + self.mlp_proj(functional.gelu(self.c_fc(self.ln_2(x))))
        return changed


class Transformer(nn.Module):
    """GPT-2; by default with the shapes of the small one, 124,439,808 parameters."""

    def __init__(
        self, *, vocabulary: int = 50257, context: int = 1024, width: int = 768, depth: int = 12
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, width // 64) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens of shape [batch, tokens] to logits of shape [batch, tokens, vocabulary]."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return functional.linear(self.ln_f(x), self.wte.weight)


def _adam(model: nn.Module) -> Workload:
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():  # as after a step, without the memory of gradients
        optimizer.state[parameter] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.empty_like(parameter, requires_grad=False).uniform_(-1, 1),
            "exp_avg_sq": torch.empty_like(parameter, requires_grad=False).uniform_(0, 1),
        }
    return Workload(names.ADAM, {"model": model, "optimizer": optimizer})


def _iris() -> Workload:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    functional.cross_entropy(model(torch.randn(8, 4)), torch.zeros(8, dtype=torch.long)).backward()
    optimizer.step()
    scheduler.step()
    return Workload(names.IRIS, {"model": model, "optimizer": optimizer, "scheduler": scheduler})


#: Each by name: as it is, and small.
MAKERS: Mapping[str, tuple[Callable[[], Workload], Callable[[], Workload]]] = {
    names.LARGE: (
        lambda: Workload(names.LARGE, {"model": _tensors(16, 16 << 20)}),
        lambda: Workload(names.LARGE, {"model": _tensors(4, 1 << 20)}),
    ),
    names.LARGER: (
        lambda: Workload(names.LARGER, {"model": _tensors(64, 16 << 20)}),
        lambda: Workload(names.LARGER, {"model": _tensors(8, 1 << 20)}),
    ),
    names.ADAM: (
        lambda: _adam(Transformer()),
        lambda: _adam(Transformer(vocabulary=512, context=64, width=128, depth=2)),
    ),
    names.MANY: (
        lambda: Workload(names.MANY, {"model": _tensors(10_000, 256)}),
        lambda: Workload(names.MANY, {"model": _tensors(500, 256)}),
    ),
    names.IRIS: (_iris, _iris),
}

#: Bytes of the tensors of each at full size and small, to see beforehand whether there is room.
NBYTES: Mapping[str, tuple[int, int]] = {
    names.LARGE: (1 << 30, 16 << 20),
    names.LARGER: (4 << 30, 32 << 20),
    names.ADAM: (1_493_278_288, 6 << 20),
    names.MANY: (10_000 << 10, 500 << 10),
    names.IRIS: (3 << 10, 3 << 10),
}


def make(name: str, *, is_quick: bool) -> Workload:
    """The workload of that name, with the same values every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MAKERS[name][is_quick]()
