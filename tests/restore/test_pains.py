"""The pains of PEERS.md that restoring is about, each done again to show that it cannot happen.

Those of 18 (optimizers by position), 26 (whole models), 27 (learning rates) and 28
(``strict=False`` loads nothing) are beside what they are about, and those of 21 (resumed training
differs) in tests/resume: each has the pain's number in its name, as here.
"""

from __future__ import annotations

import argparse
from pathlib import PosixPath

import numpy as np
import pytest
import torch
from relocating import relocate
from torch import nn

import holdfast
from holdfast.errors import UntrustedError
from holdfast.state.equal import same


def test_17_nothing_lands_on_a_gpu_because_it_was_saved_there(tmp_path, monkeypatch) -> None:
    """pytorch #23138: every rank loads onto GPU 0. Nothing here ever asks for a CUDA device."""
    asked = []
    whole = torch.UntypedStorage.cuda
    monkeypatch.setattr(
        torch.UntypedStorage, "cuda", lambda *a, **k: asked.append(a) or whole(*a, **k)
    )
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "x": torch.ones(2)}
    torch.save(tree, tmp_path / "a.pt")
    relocate(tmp_path / "a.pt", "cuda:0")
    live = nn.Linear(2, 2)
    other = torch.optim.Adam(live.parameters())
    report = holdfast.load_state(tmp_path / "a.pt", model=live, optimizer=other)
    assert {p.device.type for p in live.parameters()} == {"cpu"}
    assert report.extra["x"].device.type == "cpu"
    assert asked == []


def test_19_names_of_compiled_models_fit_wherever_they_are_used(tmp_path) -> None:
    """pytorch #101107, pytorch-lightning #20233: ``_orig_mod.`` and then random weights."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0] = torch.compile(model[0])
    torch.save({"state_dict": torch.compile(model).state_dict()}, tmp_path / "a.ckpt")
    live = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    report = holdfast.load_state(tmp_path / "a.ckpt", model=live)
    assert same([*live.state_dict().values()], [*model.state_dict().values()])
    assert [rule.rule for rule in report["model"].renamed] == [
        "_orig_mod. left out",
        "_orig_mod._orig_mod. left out",
    ]


def test_20_files_with_objects_in_them_give_their_weights(tmp_path) -> None:
    """pytorch-lightning #20643, chemprop #1227: torch 2.6 refuses whole families of files."""
    model = nn.Linear(2, 2)
    hyper = argparse.Namespace(lr=np.float64(0.1), path=PosixPath("/data"))
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": hyper, "scale": np.float32(2)},
        tmp_path / "a.ckpt",
    )
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "a.ckpt", weights_only=True)
    live = nn.Linear(2, 2)
    report = holdfast.load_state(tmp_path / "a.ckpt", model=live)
    assert same(live.state_dict(), model.state_dict())
    assert report.opaque == ("hyper_parameters (argparse.Namespace, pathlib.PosixPath)",)
    assert report.extra == {"scale": np.float32(2)}
    with pytest.raises(UntrustedError):
        holdfast.load(tmp_path / "a.ckpt")
    trusted = [argparse.Namespace, PosixPath]
    report = holdfast.load_state(tmp_path / "a.ckpt", model=live, trust=trusted)
    assert report.extra["hyper_parameters"] == hyper
