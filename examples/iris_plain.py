"""The loop of iris.py without holdfast: what an interruption costs it is everything."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)  # the fastest for so small a model
torch.manual_seed(0)
table = np.loadtxt(Path(__file__).with_name("iris.csv"), delimiter=",", skiprows=1)
flowers = torch.tensor(table[:, :4], dtype=torch.float32)
species = torch.tensor(table[:, 4], dtype=torch.int64)
loader = DataLoader(TensorDataset(flowers, species), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.5)


def train_one_epoch():
    losses = []
    for inputs, labels in loader:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scheduler.step()
    return sum(losses) / len(losses)


for epoch in range(100):
    loss = train_one_epoch()
    print(f"epoch {epoch}  loss {loss:.6f}")
torch.save({"model": model.state_dict()}, "plain.pt")
