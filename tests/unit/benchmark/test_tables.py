from __future__ import annotations

import dataclasses

import pytest
from benchmark_samples import a_workload

from holdfast.benchmark.report import Spread
from holdfast.benchmark.tables import head, seconds, spread, tables


def test_the_head_names_machine_and_method(result) -> None:
    assert head(result) == [
        "A CPU, 2 cores, 8.0 GiB memory, ext4",
        "Linux, Python 3.11; holdfast 0.1.0, torch 2.13.0; 2026-01-31",
        "Medians of 5 rounds (least to most), all ways in turn, after an unrecorded round.",
    ]
    quick = dataclasses.replace(result, is_quick=True)
    assert head(quick)[-1] == "Quick: small sizes, few rounds. These figures say little."


def test_the_tables_and_their_order(result) -> None:
    assert [table.title for table in tables(result)] == [
        "large: 16 tensors, 1.0 GiB, limits of this machine",
        "large: 16 tensors, 1.0 GiB, saving",
        "large: 16 tensors, 1.0 GiB, training goes on",
        "large: 16 tensors, 1.0 GiB, loading, warm",
        "large: 16 tensors, 1.0 GiB, not measured",
        "What it must reach",
    ]
    for table in tables(result):
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_a_row_of_each_table(result) -> None:
    limits, saves, steps, warm, skipped, figures = (table.rows for table in tables(result))
    assert limits[0] == ("plain direct write", "0.36 s (0.18 to 0.72)", "2.78")
    assert saves[0][:6] == (
        *("torch.save + fsync", "1.20 s (0.60 to 2.40)", "0.83", "0.30 x", "1.00 x", "2.00"),
    )
    assert saves[0][6:] == ("8.0 MiB", "", "")
    assert saves[3][6:] == ("", "0.10 s", "0.20 s")
    assert steps[0][1:] == ("60.0 ms (50.0 to 80.0)", "50.0 ms (40.0 to 60.0)", "1.20 x")
    assert warm[1][:4] == (
        *("torch.load + load_state_dict", "live parts", "0.75 s (0.38 to 1.50)", "1.33"),
    )
    assert skipped == (("dcp.async_save, stager kept, pinned", "needs CUDA"),)
    assert figures[0][1:] == ("large", "at least 0.85 x", "0.90 x", "met")
    assert [row[-1] for row in figures if row[-2] == "not measured"] == ["", "", ""]


def test_speeds_of_tiny_states_say_nothing() -> None:
    from holdfast.benchmark.tables import _of

    small = dataclasses.replace(a_workload("iris"), nbytes=2048)
    limits, saves, *_ = _of(small)
    assert limits.rows[0][2] == ""
    assert saves.rows[0][2] == saves.rows[0][5] == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(123.4, "123 s"), (1.234, "1.23 s"), (0.0423, "42.3 ms"), (0.00012, "120 µs")],
)
def test_seconds(value, text) -> None:
    assert seconds(value) == text


def test_a_spread_is_in_one_unit() -> None:
    assert spread(Spread(0.05, 0.0004, 1.5, 3)) == "50.0 ms (0.40 to 1500)"
