from __future__ import annotations

import pytest
import torch

from holdfast.benchmark import names, workloads


@pytest.mark.parametrize("name", names.WORKLOADS)
def test_small_workloads_have_about_the_bytes_that_room_is_kept_for(name) -> None:
    workload = workloads.make(name, is_quick=True)
    assert 0.5 * workloads.NBYTES[name][1] < workload.nbytes <= workloads.NBYTES[name][1]
    assert workload.name == name


def test_they_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, other = (workloads.make(names.IRIS, is_quick=True).tensors() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_large_transformer_is_gpt_2_small() -> None:
    with torch.device("meta"):
        model = workloads.Transformer()
    parameters = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    assert count == 124_439_808
    nbytes = 3 * 4 * count + 4 * len(parameters)  # parameters, two of Adam's, and its steps
    assert workloads.NBYTES[names.ADAM][0] == nbytes


def test_the_small_transformer_takes_a_step_with_its_state() -> None:
    workload = workloads.make(names.ADAM, is_quick=True)
    model, optimizer = workload.parts["model"], workload.parts["optimizer"]
    before = model.wte.weight.detach().clone()
    model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.wte.weight, before)
    assert optimizer.state[model.wte.weight]["step"] == 2


def test_the_iris_model_has_momentum_and_a_schedule() -> None:
    workload = workloads.make(names.IRIS, is_quick=False)
    assert list(workload.parts) == ["model", "optimizer", "scheduler"]
    assert workload.parts["scheduler"].last_epoch == 1
    assert "optimizer.state.0.momentum_buffer" in workload.tensors()
