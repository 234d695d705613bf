"""The table of docs/reliability.md: what it says of cases and failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults import report
from tests.faults.kills import Outcome
from tests.faults.report import COLUMNS, Work, examples, page, promises, table, works
from tests.faults.savers import OURS, SAVERS


def done(saver: str, column: str, happened: int, wrong: int) -> tuple[Work, Outcome]:
    outcome = Outcome(saver, column, happened, happened)
    outcome.wrong = {f"case {n}": [f"<problem> | {n}"] for n in range(wrong)}
    return Work(column, saver, ("kill",)), outcome


DONE = [
    done("Run", "killed", 1000, 0),
    done("Run", "killed", 234, 0),
    done("torch.save", "killed", 30, 4),
    done("torch.save", "rot", 10, 10),
]


def test_cases_and_failures_of_a_saver_are_added_up() -> None:
    assert table(DONE).splitlines() == [
        f"| saver | {' | '.join(COLUMNS)} |",
        "|---|--:|--:|--:|--:|--:|--:|",
        "| **Run** | 1,234, none failed |  |  |  |  |  |",
        "| torch.save | 4 of 30 failed |  |  |  |  | 10 of 10 failed |",
    ]


def test_one_example_of_each_failure_is_shown_as_text() -> None:
    assert examples(DONE).splitlines() == [
        "- torch.save: killed; case 0: &lt;problem> \\| 0",
        "- torch.save: rot; case 0: &lt;problem> \\| 0",
    ]
    assert examples(DONE[:2]) == "Nothing failed."


def test_holdfast_s_cases_are_counted_by_themselves() -> None:
    assert page(DONE).startswith("1,234 cases of holdfast, 0 of them failed; at commit ")


def test_the_page_keeps_what_stands_around_the_table(tmp_path: Path, monkeypatch) -> None:
    copy = tmp_path / "page.md"
    copy.write_text("before\n<!-- begin: make faults -->\nold\n<!-- end: make faults -->\nafter\n")
    monkeypatch.setattr(report, "PAGE", copy)
    report.write("new")
    assert copy.read_text() == (
        "before\n<!-- begin: make faults -->\n\nnew\n\n<!-- end: make faults -->\nafter\n"
    )
    assert report._MARKS[0] in (report.ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.parametrize("saver", OURS)
def test_every_saver_of_ours_goes_through_every_kind_of_fault(saver: str) -> None:
    faults = {work.command[0] for work in works() if work.saver == saver}
    assert {"kill", "error", "power"} <= faults


def test_there_is_something_to_compare_with() -> None:
    assert len(set(SAVERS) - set(OURS)) >= 4


def test_what_holdfast_promises_is_counted_by_what_was_tried() -> None:
    others = [done("Run", "disks", 8, 0), done("Run", "endurance", 300, 1)]
    assert promises([*DONE, *others]).splitlines() == [
        "| tried | cases | failed |",
        "|---|--:|--:|",
        "| killed at each system call | 1,234 | 0 |",
        "| full disks, limits, lost folders and permissions (tests) | 8 | 0 |",
        "| lives of a training that ended at random | 300 | 1 |",
    ]


def test_every_promise_is_tried() -> None:
    tried = {work.column for work in works() if work.saver in OURS}
    assert {"killed", "errors", "rot", "disks", "two", "endurance"} <= tried
