"""Small workloads, and results made by hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from benchmark_samples import a_workload, tiny

from holdfast.benchmark.report import Machine, Result
from holdfast.benchmark.workloads import Workload


@pytest.fixture
def workload() -> Workload:
    return tiny()


@pytest.fixture
def quiet() -> Iterator[None]:
    """As the benchmark runs: torch warns that there is no process group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def result() -> Result:
    versions = {"holdfast": "0.1.0", "torch": "2.13.0"}
    machine = Machine("A CPU", 2, 8 << 30, "ext4", "Linux, Python 3.11", versions, "2026-01-31")
    return Result(machine, 5, False, (a_workload(),))
