"""Each way of loading gives what torch gives."""

from __future__ import annotations

import pytest
import torch
from benchmark_samples import tiny

from holdfast.benchmark import names
from holdfast.benchmark.loaders import LOADERS
from holdfast.benchmark.loads import measure_loads
from holdfast.training import save_state


def zeroed():
    workload = tiny()
    with torch.no_grad():
        for tensor in workload.tensors().values():
            tensor.zero_()
    return workload


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.name)
def test_what_was_loaded_is_what_torch_loads(loader, tmp_path, workload) -> None:
    path = tmp_path / "a.pt"
    save_state(path, **workload.parts)
    wanted, into = workload.tensors(), zeroed()
    found = loader.load(into, path)
    if loader.into == names.LIVE:
        tensors = into.tensors()
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    else:
        oracle = torch.load(path, weights_only=True)
        assert found["model"].keys() == oracle["model"].keys()
        for name, tensor in oracle["model"].items():
            assert torch.equal(found["model"][name], tensor)


def test_a_mapped_file_is_let_go(tmp_path, workload) -> None:
    """What the optimizer keeps must not lie in the file: no cold load could follow."""
    [mapped] = [loader for loader in LOADERS if loader.name == names.TORCH_MMAP_INTO]
    path = tmp_path / "a.pt"
    save_state(path, **workload.parts)
    mapped.load(workload, path)
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - no file of a disk
        assert str(path) not in maps.read()


def test_warm_and_cold_rows_of_one_file(tmp_path, workload) -> None:
    warm, cold, skipped = measure_loads(workload, tmp_path, 1, lambda name: None)
    wanted = [names.READ, *(loader.name for loader in LOADERS)]
    assert [row.name for row in warm] == wanted
    assert [row.name for row in cold] == ([] if skipped else wanted)
    assert [row.into for row in warm] == [None, *(loader.into for loader in LOADERS)]
