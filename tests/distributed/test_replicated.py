"""A run under DistributedDataParallel: one file by rank 0, and exact resumes on every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import rank_jobs as jobs
import torch
from ranks import Group

import holdfast


def assert_same(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
        else:
            assert value == b[name], name


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("background", [False, True])
def test_a_resumed_training_is_the_one_that_was_never_interrupted(
    tmp_path: Path, background: bool, kind: str
) -> None:
    folder, options = str(tmp_path / "run"), {"background": background}
    plain = Group(2, jobs.train_without, 9, kind).values()
    first = Group(2, jobs.train, folder, 5, options, kind).values()
    second = Group(2, jobs.train, folder, 9, options, kind).values()
    for rank in range(2):
        losses = {**first[rank]["losses"], **second[rank]["losses"]}
        assert losses == plain[rank]["losses"]
        assert_same(second[rank]["state"], plain[rank]["state"])
        assert second[rank]["left"] == ()
    names = [path.name for path in sorted((tmp_path / "run").glob("step*"))]
    suffix = ".pt" if kind == "ddp" else ""  # a folder
    kept = (4, 6, 7, 8)  # the one resumed from is never pruned
    assert names == [f"step-0000000{step}{suffix}" for step in kept]


def test_the_file_is_the_one_of_a_single_process(tmp_path: Path) -> None:
    Group(2, jobs.train, str(tmp_path / "run"), 3, {}).values()
    tree = torch.load(tmp_path / "run" / "step-00000002.pt", weights_only=True)
    assert set(tree) == {"model", "optimizer", "scheduler", "loader", "rng", "ranks"}
    assert set(tree["model"]) == set(jobs.small_model().state_dict())
    assert set(tree["ranks"]) == {"1"}
    assert set(tree["ranks"]["1"]) == {"loader", "rng"}
    model = jobs.small_model()
    report = holdfast.load_model(tmp_path / "run", model)
    assert report.step == 2
    assert torch.equal(model[0].weight, tree["model"]["0.weight"])


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("size", [1, 3])
def test_with_another_number_of_ranks_the_report_says_what_is_lost(
    size: int, tmp_path: Path, kind: str
) -> None:
    folder = str(tmp_path / "run")
    Group(2, jobs.train, folder, 3, {}, kind).values()
    said = Group(size, jobs.left_behind, folder, kind).values()
    of = f"the checkpoint is of 2 ranks, and this is one of {size}"
    for rank, (following, left, _) in enumerate(said):
        assert following == 3
        assert f"'loader': {of}" in left
        if rank == 2:
            assert f"the random generators of rank 2: {of}" in left
    if size == 1:
        assert f"the random generators of ranks 1 to 1: {of}" in said[0][1]
    assert len({number for _, _, number in said}) == size, "no two ranks draw alike"


def test_one_process_alone_loads_it(tmp_path: Path) -> None:
    """DistributedDataParallel is not needed, nor the number of processes that saved."""
    Group(2, jobs.train, str(tmp_path / "run"), 3, {}).values()
    model = jobs.small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    report = holdfast.load_state(tmp_path / "run", model=model, optimizer=optimizer)
    assert report.step == 2
    tree = torch.load(tmp_path / "run" / "step-00000002.pt", weights_only=True)
    saved = tree["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], saved)
    assert holdfast.verify(tmp_path / "run").ok
