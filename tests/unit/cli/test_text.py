from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli import text


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (9626, "9.4 KiB"),
        (5 * 1024**3, "5.0 GiB"),
        (1024**6, "1024.0 PiB"),
    ],
)
def test_sizes(nbytes, shown) -> None:
    assert text.size(nbytes) == shown


def test_counts_shapes_numbers_moments() -> None:
    assert [text.count(n, "tensor") for n in (0, 1, 1024)] == [
        "0 tensors",
        "1 tensor",
        "1,024 tensors",
    ]
    assert [text.shape(s) for s in ((), (3,), (16, 4))] == ["[]", "[3]", "[16, 4]"]
    assert [text.number(v) for v in (0.123456789, 3.0, "NaN", None)] == ["0.123457", "3", "NaN", ""]
    assert text.moment("2026-01-31T09:05:00.123+00:00") == "2026-01-31 09:05:00"
    assert text.moment(None, 0.0) == "1970-01-01 00:00:00"
    assert text.moment(None) == ""


def test_long_names_lose_their_middle() -> None:
    assert text.shortened("model.weight") == "model.weight"
    assert text.shortened("a" * 1000 + "b" * 50) == "a" * 100 + "…" + "b" * 50


def test_control_codes_cannot_reach_the_terminal() -> None:
    assert text.safe("a\x1b[2Jb\x07模型\n\udc80") == "a\\x1b[2Jb\\x07模型\n\\udc80"


@given(st.text())
def test_safe_text_is_printable_and_plain_text_stays(name) -> None:
    shown = text.safe(name)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert shown == name or not name.replace("\n", "").isprintable()


def test_a_record_in_lines() -> None:
    record = {
        "step": 9,
        "sequence": 3,
        "time": "2026-01-31T09:05:00+00:00",
        "metrics": {"loss": 0.25, "acc": "NaN"},
        "provenance": {
            "git": {"commit": "0123456789abcdef", "is_dirty": True},
            "versions": {"torch": "2.13.0", "numpy": "2", "holdfast": "0.1.0"},
            "host": "box",
        },
    }
    assert text.record_lines(record) == [
        "step 9, sequence 3, saved 2026-01-31 09:05:00 UTC",
        "loss 0.25, acc NaN",
        "git 0123456789ab (dirty), torch 2.13.0, holdfast 0.1.0, on box",
    ]


@pytest.mark.parametrize("provenance", [{}, {"git": 5, "versions": [], "host": {}}, {"git": {}}])
def test_a_record_with_odd_provenance(provenance) -> None:
    assert text.record_lines({"step": 0, "provenance": provenance}) == ["step 0"]
