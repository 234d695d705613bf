from __future__ import annotations

import json

import pytest

from holdfast.benchmark.report import Result, Spread, row


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([4.0, 1.0]) == Spread(2.5, 1.0, 4.0, 2)


def test_a_result_goes_through_json_unchanged(result) -> None:
    text = json.dumps(result.to_json())
    assert Result.from_json(json.loads(text)) == result


def test_keys_beside_those_of_a_result_are_left_out(result) -> None:
    assert Result.from_json({**json.loads(json.dumps(result.to_json())), "figures": []}) == result


def test_a_step_is_compared_with_one_that_nothing_disturbs(result) -> None:
    assert result.workloads[0].steps[0].ratio == pytest.approx(1.2)


def test_a_row_is_found_by_its_name(result) -> None:
    saves = result.workloads[0].saves
    assert row(saves, "torch.save + fsync") is saves[0]
    assert row(saves, "another") is None
