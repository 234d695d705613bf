"""The record: JSON that comes back as it was, and a letter for what is no record."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import FormatError
from holdfast.spec.record import Record, decode, encode

NAMES = st.text(max_size=8)
RECORDS = st.builds(
    Record,
    id=NAMES,
    step=st.none() | st.integers(0, 2**60),
    sequence=st.none() | st.integers(0, 2**60),
    parent=st.none() | NAMES,
    metrics=st.dictionaries(NAMES, st.floats(allow_nan=False)),
    best=st.dictionaries(NAMES, st.sampled_from(["min", "max"])),
    parameters=st.dictionaries(NAMES, st.lists(st.lists(st.none() | NAMES))),
    converted=st.dictionaries(NAMES, NAMES),
)


@given(RECORDS)
def test_what_is_encoded_is_decoded(record: Record) -> None:
    assert decode(encode(record)) == record


def test_numbers_that_json_does_not_know_are_text() -> None:
    record = Record("x", metrics={"a": math.nan, "b": math.inf, "c": -math.inf})
    values = json.loads(encode(record), parse_constant=lambda name: pytest.fail(name))
    assert values["metrics"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    back = decode(encode(record)).metrics
    assert math.isnan(back["a"])
    assert back["b"] == math.inf
    assert back["c"] == -math.inf


def test_keys_of_later_versions_are_left_out() -> None:
    assert decode(b'{"holdfast": 7, "id": "x", "colour": "red"}') == Record("x")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\xff", "bytes that are no JSON"),
        (b"[" * 100_000, "bytes that are no JSON"),
        (b"[]", "JSON without the key 'holdfast'"),
        (b'{"id": "x"}', "JSON without the key 'holdfast'"),
        (b'{"holdfast": 1}', "no 'id'"),
        (b'{"holdfast": 1, "id": "x", "step": "5"}', "'step' of type str"),
        (b'{"holdfast": 1, "id": "x", "sequence": true}', "'sequence' of type bool"),
        (b'{"holdfast": 1, "id": "x", "metrics": {"a": "b"}}', "metric 'a' of 'b'"),
        (b'{"holdfast": 1, "id": "x", "metrics": {"a": []}}', "metric 'a' of []"),
        (b'{"holdfast": 1, "id": "x", "best": {"a": "most"}}', "mode 'most' of a metric"),
        (b'{"holdfast": 1, "id": "x", "parameters": {"o": 3}}', "no names of parameters in 'o'"),
        (b'{"holdfast": 1, "id": "x", "parameters": {"o": [3]}}', "no names of parameters in 'o'"),
        (
            b'{"holdfast": 1, "id": "x", "parameters": {"o": [[3]]}}',
            "no names of parameters in 'o'",
        ),
    ],
)
def test_what_is_no_record_is_an_error(data: bytes, found: str) -> None:
    with pytest.raises(FormatError) as caught:
        decode(data, file="a.pt")
    assert str(caught.value).startswith(
        "the record of this checkpoint cannot be read\n  in a.pt, member 'holdfast.json'\n"
        f"  wanted a JSON object that holdfast wrote, found {found}"
    )
