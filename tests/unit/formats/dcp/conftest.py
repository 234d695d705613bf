from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp


def state():
    return {
        "model": {
            "weight": torch.arange(12.0).reshape(3, 4).t(),
            "half": torch.arange(5, dtype=torch.bfloat16),
            "scalar": torch.tensor(7),
            "empty": torch.zeros(0, 3),
            "deep": [torch.zeros(2), 5, {"x": torch.ones(1, dtype=torch.bool)}],
        },
        "step": 3,
        "values": {"lr": 0.5, "name": "adam", "set": {1, 2}, "nothing": None},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "groups": [{"params": [0]}]},
    }


def save(state, folder, **options):
    """One process alone, as torch.distributed.checkpoint saves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = dcp.FileSystemWriter(folder, **options)
        dcp.save(state, storage_writer=writer, no_dist=True)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save(state(), tmp_path / "ckpt")
