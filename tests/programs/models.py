"""Models of the kinds that people export, small, and what each is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class CNN(nn.Module):
    """Batch norm and dropout: another model in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(8, 4)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(input))))
        return self.out(x.mean((2, 3)))


class LSTM(nn.Module):
    """Outputs within outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 7, 2, batch_first=True)
        self.out = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor):
        y, state = self.lstm(x)
        return self.out(y[:, -1]), state


class Encoder(nn.Module):
    """A small transformer on indices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.encoder(self.embed(ids)).mean(1))


class Two(nn.Module):
    """Two inputs, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(5, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor):
        both = self.left(a) + self.right(b)
        return {"sum": both, "prob": torch.softmax(both, -1)}


class Branching(nn.Module):
    """Control flow on the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.out(x)
        return -self.out(x)


class Fixed(nn.Module):
    """It takes a batch of four alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(4, -1) * 2


Example = Callable[[int], Any]

#: The model, and an example with a batch of so many.
MATRIX: dict[str, tuple[type[nn.Module], Example]] = {
    "mlp": (MLP, lambda n: torch.randn(n, 6)),
    "cnn": (CNN, lambda n: torch.randn(n, 3, 9, 9)),
    "lstm": (LSTM, lambda n: torch.randn(n, 9, 5)),
    "encoder": (Encoder, lambda n: torch.randint(0, 20, (n, 11))),
    "two": (Two, lambda n: {"a": torch.randn(n, 3), "b": torch.randn(n, 5)}),
}


def made(kind: type[nn.Module]) -> nn.Module:
    """A model, the same each time, in evaluation mode."""
    torch.manual_seed(0)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return model


def called(model: Any, example: Any) -> Any:
    with torch.no_grad():
        if isinstance(example, dict):
            return model(**example)
        return model(*example) if isinstance(example, tuple) else model(example)
