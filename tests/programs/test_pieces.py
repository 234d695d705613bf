"""Nesting, sizes, inputs and records: functions from values to values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import FormatError, UsageError
from holdfast.programs.inputs import Inputs, as_inputs
from holdfast.programs.nesting import flatten, nested
from holdfast.programs.sizes import alike, as_dims, cases, widened
from holdfast.spec import program as records
from holdfast.spec.program import Port, ProgramRecord

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(max_size=5)
OUTPUTS = st.recursive(
    PLAIN | st.builds(lambda: torch.zeros(1)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(OUTPUTS)
def test_what_is_flattened_is_nested_again(outputs: Any) -> None:
    names, tensors, structure = flatten(outputs)
    again = nested(json.loads(json.dumps(structure)), tensors)
    assert flatten(again)[1:] == (tensors, structure) or flatten(again)[2] == structure
    assert [id(each) for each in flatten(again)[1]] == [id(each) for each in tensors]
    assert len(names) == len(tensors)


def test_names_of_outputs() -> None:
    t = torch.zeros(1)
    assert flatten(t)[0] == ["output"]
    assert flatten((t, {"a": t, "b": [t, None]}))[0] == ["output.0", "output.1.a", "output.1.b.0"]
    assert flatten({"logits": t, "state": (t, t)})[0] == ["logits", "state.0", "state.1"]


@pytest.mark.parametrize("outputs", [object(), {1: torch.zeros(1)}, {"a": {2, 3}}, math.inf])
def test_what_no_program_can_give(outputs: Any) -> None:
    with pytest.raises(UsageError, match="the model gives something that no program can give"):
        flatten(outputs)


@pytest.mark.parametrize(
    "structure",
    [[0, 1], [5], {"dict": 3}, {"odd": []}, {}, 3, None, {"tuple": [[9]]}, {"a": 1, "b": 2}],
)
def test_a_structure_that_is_none(structure: Any) -> None:
    with pytest.raises(FormatError):
        nested(structure, [torch.zeros(1)])


def test_a_structure_that_is_too_deep() -> None:
    deep: Any = [0]
    for _ in range(200):
        deep = {"list": [deep]}
    with pytest.raises(FormatError):
        nested(deep, [torch.zeros(1)])


DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@given(st.sampled_from(DTYPES), st.integers(1, 5), st.integers(0, 99))
def test_generated_values_are_of_the_example_s_kind(
    dtype: torch.dtype, size: int, seed: int
) -> None:
    example = (torch.arange(6).reshape(2, 3) * 7 + 3).to(dtype)
    made = alike(example, (size, 3), torch.Generator().manual_seed(seed))
    assert (made.dtype, tuple(made.shape)) == (dtype, (size, 3))
    if dtype in (torch.int64, torch.uint8):
        assert int(made.min()) >= 3
        assert int(made.max()) <= 38
    if not dtype.is_floating_point and dtype not in (torch.int64, torch.uint8):
        assert set(made.reshape(-1).tolist()) <= set(example.reshape(-1).tolist())


def test_a_mask_of_infinities_stays_one() -> None:
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    made = alike(mask, (50, 2), torch.Generator().manual_seed(0))
    assert set(made.reshape(-1).tolist()) == {0.0, -torch.inf}


def test_cases_do_not_touch_the_caller_s_random_numbers() -> None:
    inputs = Inputs(("x",), (torch.ones(4, 3),))
    dims = as_dims("batch", inputs)
    before = torch.get_rng_state()
    labels = [case.label for case in cases(inputs, dims)]
    assert torch.equal(torch.get_rng_state(), before)
    assert labels == [
        *("the example", "random values", "the example negated"),
        *("batch=1", "batch=2", "batch=3", "batch=7", "batch=8"),
    ]
    again = [case.inputs.tensors[0] for case in cases(inputs, dims)]
    assert all(map(torch.equal, again, (c.inputs.tensors[0] for c in cases(inputs, dims))))


def test_a_dynamic_size_of_one_is_made_two_and_an_empty_one_is_refused() -> None:
    inputs = Inputs(("x", "y"), (torch.ones(1, 3), torch.ones(1)))
    dims = {"x": {0: "n"}}
    assert [tuple(t.shape) for t in widened(inputs, dims).tensors] == [(2, 3), (1,)]
    with pytest.raises(UsageError, match="empty along a dynamic dimension"):
        widened(Inputs(("x",), (torch.ones(0, 3),)), dims)


class Many(torch.nn.Module):
    def forward(self, x, *rest, flag=None, **more):
        return x


def test_inputs_of_any_signature() -> None:
    t = torch.ones(1)
    assert as_inputs(Many(), (t, t, t)).names == ("x", "rest_0", "rest_1")
    named = as_inputs(Many(), {"z": t, "flag": t, "x": t})
    assert named.names == ("x", "flag", "z")
    assert (len(named.args), list(named.kwargs)) == (1, ["flag", "z"])


PORTS = st.builds(
    Port,
    st.text(max_size=8),
    st.none() | st.text(max_size=8),
    st.none()
    | st.lists(st.none() | st.integers(0, 9) | st.text(max_size=4), max_size=4).map(tuple),
)
RECORDS = st.builds(
    ProgramRecord,
    method=st.text(max_size=8),
    inputs=st.lists(PORTS, max_size=3).map(tuple),
    outputs=st.lists(PORTS, max_size=3).map(tuple),
    keywords=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    structure=st.just([0]) | st.none(),
    is_training=st.booleans(),
    source=st.none() | st.text(max_size=5),
    parent=st.dictionaries(st.text(max_size=4), st.integers() | st.none(), max_size=2),
    time=st.none() | st.text(max_size=5),
    versions=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    ranges=st.dictionaries(
        st.text(max_size=4), st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9)), max_size=2
    ),
)


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: ProgramRecord) -> None:
    assert records.decode(records.encode(record)) == record


@given(RECORDS, st.data())
def test_a_record_that_is_damaged_is_a_letter_or_another_record(
    record: ProgramRecord, data: Any
) -> None:
    values = record.to_json()
    name = data.draw(st.sampled_from(sorted(values)))
    values[name] = data.draw(st.none() | st.integers() | st.text(max_size=3) | st.just([[1]]))
    try:
        found = records.decode(json.dumps(values))
    except FormatError as error:
        found = error
    assert isinstance(found, ProgramRecord) or "the record of this program" in found.what


@pytest.mark.parametrize("text", ["", "{}", "[]", "nul", '{"holdfast_program": "x"}', "[" * 5000])
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(FormatError):
        records.decode(text, file="m.ts")
