"""What else a checkpoint holds: extra, given back as it was, and metrics."""

from __future__ import annotations

import decimal
import json
import math

import numpy as np
import pytest
import torch

import holdfast
from holdfast.errors import CaptureError, UsageError

EXTRA = {
    "number": 1,
    "half": 0.5,
    "complex": 1 + 2j,
    "yes": True,
    "none": None,
    "text": "é模型",
    "bytes": b"\x00\xff",
    "no bytes": b"",
    "list": [1, [2.0, "x"]],
    "tuple": (1, (2,)),
    "set": {1, "a"},
    "dict": {"nested": {"deep": [np.float32(0.1)]}, 3: "int key", "a/b~c": np.int8(4)},
    "array": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "0-d array": np.array(1.5),
    "numpy bool": np.bool_(True),
    "numpy complex": np.complex64(1j),
}


def alike(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_extra_comes_back_as_it_was(tmp_path, training, at):
    run = training.run(tmp_path)
    run.extra.update(EXTRA)
    tensor = run.extra["tensor"] = torch.arange(3, dtype=torch.bfloat16)
    run.save(0)
    other = at.Training().run(tmp_path)
    assert other.extra == {}
    other.resume()
    assert torch.equal(other.extra.pop("tensor"), tensor)
    assert alike(other.extra, EXTRA)


def test_in_the_file_are_tensors_and_numbers_and_the_record_notes_what_was_what(
    tmp_path, training, at
):
    run = training.run(tmp_path)
    run.extra.update(EXTRA)
    run.save(0)
    extra = torch.load(at.file(tmp_path, 0), weights_only=True)["extra"]
    assert extra["array"].dtype == torch.uint16
    assert extra["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert type(extra["dict"]["nested"]["deep"][0]) is float
    notes = {
        k: v for k, v in at.record(at.file(tmp_path, 0))["converted"].items() if "rng" not in k
    }
    assert notes == {
        "/extra/no bytes": "bytes",
        "/extra/dict/nested/deep/~:0": "numpy.float32",
        "/extra/dict/a~1b~0c": "numpy.int8",
        "/extra/array": "numpy.ndarray",
        "/extra/0-d array": "numpy.ndarray",
        "/extra/numpy bool": "numpy.bool",
        "/extra/numpy complex": "numpy.complex64",
    }


def test_anything_else_is_an_error_with_its_path_and_nothing_is_saved(tmp_path, training, at):
    run = training.run(tmp_path, keep=None)
    run.save(0)
    before = at.file(tmp_path, 0).read_bytes()
    run.extra["money"] = [{"price": decimal.Decimal(1)}]
    with pytest.raises(CaptureError) as caught:
        run.save(1)
    assert str(caught.value) == (
        "an object of this class cannot be saved, at 'extra.money.0.price'\n"
        "  wanted dict, list, tuple, set, numbers, text, bytes, tensors, NumPy arrays and scalars, "
        "found decimal.Decimal\n"
        "  Turn it into such values, or give its object as a part of its own with state_dict and "
        "load_state_dict."
    )
    assert at.names(tmp_path) == ["step-00000000.pt"]
    assert at.file(tmp_path, 0).read_bytes() == before
    del run.extra["money"]
    assert run.save(1).step == 1


def test_extra_is_a_dict(tmp_path, training):
    run = training.run(tmp_path)
    run.extra = [1]
    with pytest.raises(UsageError) as caught:
        run.save(0)
    assert str(caught.value) == "extra must be a dict\n  found list"


def test_extra_may_be_replaced_as_a_whole(tmp_path, training, at):
    run = training.run(tmp_path)
    run.extra = {"n": 1}
    run.save(0)
    other = at.Training().run(tmp_path)
    mine = other.extra = {"old": 2}
    other.resume()
    assert mine == {"n": 1}


def test_going_back_goes_back_with_extra(tmp_path, training):
    run = training.run(tmp_path, keep=None)
    for step in range(3):
        run.extra = {"best": step, f"only {step}": 1}
        run.save(step)
    run.resume(1)
    assert run.extra == {"best": 1, "only 1": 1}


def test_save_state_takes_extra_and_gives_it_back_in_the_report(tmp_path, training):
    holdfast.save_state(tmp_path / "a.pt", extra=EXTRA, **training.parts)
    report = holdfast.load_state(tmp_path / "a.pt", **training.parts)
    assert alike(dict(report.extra), EXTRA)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (torch.tensor(0.25), 0.25),
        (torch.tensor(3, requires_grad=False), 3.0),
        (torch.tensor(0.25, requires_grad=True), 0.25),
        (torch.tensor([0.5]), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2.0),
        (np.array(0.5), 0.5),
    ],
    ids=repr,
)
def test_metrics_are_floats(tmp_path, training, at, value, stored):
    run = training.run(tmp_path)
    run.save(0, metrics={"loss": value})
    found = at.record(at.file(tmp_path, 0))["metrics"]["loss"]
    assert (type(found), found) == (float, stored)
    assert run.latest().metrics == {"loss": stored}


def test_non_finite_metrics_are_strings_in_the_json(tmp_path, training, at):
    run = training.run(tmp_path)
    run.save(0, metrics={"a": math.nan, "b": math.inf, "c": -torch.tensor(math.inf)})
    text = json.dumps(at.record(at.file(tmp_path, 0))["metrics"], allow_nan=False)
    assert text == '{"a": "NaN", "b": "Infinity", "c": "-Infinity"}'
    metrics = run.latest().metrics
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"]) == (math.inf, -math.inf)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0.5", "str"),
        (True, "bool"),
        (None, "NoneType"),
        ([0.5], "list"),
        (1j, "complex"),
        (torch.zeros(2), "Tensor of shape (2,)"),
        (np.zeros(2), "ndarray of shape (2,)"),
    ],
    ids=repr,
)
def test_what_is_not_one_number_is_no_metric(tmp_path, training, at, value, found):
    run = training.run(tmp_path)
    with pytest.raises(UsageError) as caught:
        run.save(0, metrics={"loss": value})
    assert str(caught.value) == (
        "the metric 'loss' is not one number\n"
        "  wanted an int, a float, a NumPy scalar or a tensor of one element, "
        f"found {found}\n"
        "  Give its mean, or put it into run.extra."
    )
    assert at.names(tmp_path) == []


def test_a_number_too_large_for_a_float_is_no_metric(tmp_path, training):
    with pytest.raises(UsageError, match="the metric 'loss' is not one number"):
        training.run(tmp_path).save(0, metrics={"loss": 10**400})


@pytest.mark.parametrize("name", ["", 3, None], ids=repr)
def test_a_metrics_name_is_text(tmp_path, training, name):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path).save(0, metrics={name: 1.0})
    assert str(caught.value) == f"a metric's name is text\n  found {name!r}"


def test_metrics_is_a_dict(tmp_path, training):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path).save(0, metrics=0.5)
    assert str(caught.value) == "metrics is a dict of numbers\n  found float"


def test_wrong_metrics_are_an_error_also_when_every_says_not_now(tmp_path, training):
    """Else the mistake shows after the first hundred steps."""
    run = training.run(tmp_path, every=holdfast.every(steps=100))
    with pytest.raises(UsageError):
        run.save(0, metrics={"loss": "low"})
