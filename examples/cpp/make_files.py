"""What Python hands to C++: a program, an input with its output, and plain weights."""

import sys
from pathlib import Path

import torch
from torch import nn

import holdfast

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.Linear(32, 3))
model(torch.randn(64, 4))  # in the place of a training: BatchNorm's statistics are those of data
model.eval()

example = torch.randn(5, 4)
with torch.no_grad():
    holdfast.save({"input": example, "output": model(example)}, folder / "in_and_out.pt")

holdfast.export(model, example, folder / "model.ts")

holdfast.save_state(folder / "weights.pt", model=model)
holdfast.convert(folder / "weights.pt", folder / "plain.pt", plain=True)
