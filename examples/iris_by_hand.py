"""The loop of iris.py with checkpoints written by hand, as carefully as people do it."""

import random
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


folder = Path("runs/iris-by-hand")
folder.mkdir(parents=True, exist_ok=True)
best_loss = float("inf")


def save(path, epoch, loss):
    checkpoint = {
        "epoch": epoch,
        "loss": loss,
        "best_loss": best_loss,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": np.random.get_state(),
        "python_rng": random.getstate(),
    }
    temp = path.with_suffix(".tmp")
    torch.save(checkpoint, temp)
    temp.replace(path)


first_epoch = 0
checkpoints = sorted(folder.glob("epoch-*.pt"))
if checkpoints:
    checkpoint = torch.load(checkpoints[-1], weights_only=False)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["torch_rng"])
    np.random.set_state(checkpoint["numpy_rng"])
    random.setstate(checkpoint["python_rng"])
    best_loss = checkpoint["best_loss"]
    first_epoch = checkpoint["epoch"] + 1

for epoch in range(first_epoch, 100):
    loss = train_one_epoch()
    print(f"epoch {epoch}  loss {loss:.6f}")
    if loss < best_loss:
        best_loss = loss
        save(folder / "best.pt", epoch, loss)
    save(folder / f"epoch-{epoch:05d}.pt", epoch, loss)
    for old in sorted(folder.glob("epoch-*.pt"))[:-3]:
        old.unlink()
