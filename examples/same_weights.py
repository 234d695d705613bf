"""Do two checkpoints hold the same weights, bit for bit? Opens both with plain torch.load."""

import sys

import torch

first, second = (torch.load(path, weights_only=True)["model"] for path in sys.argv[1:3])
differing = [
    name
    for name in first.keys() | second.keys()
    if name not in first
    or name not in second
    or first[name].shape != second[name].shape
    or first[name].numpy().tobytes() != second[name].numpy().tobytes()
]
if differing:
    sys.exit(f"these tensors differ: {', '.join(sorted(differing))}")
print(f"{len(first)} of {len(first)} tensors are the same, bit for bit")
