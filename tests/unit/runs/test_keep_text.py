from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.runs import keep
from holdfast.runs.keep_text import parse


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest:3", keep.latest(3)),
        ("best:loss", keep.best("loss")),
        ("best:accuracy:max", keep.best("accuracy", mode="max")),
        ("best:val:loss", keep.best("val:loss")),
        ("best:val:loss:min", keep.best("val:loss")),
        ("every:1000", keep.every(steps=1000)),
        ("every:60m", keep.every(minutes=60)),
    ],
)
def test_policies_as_text(text, policy) -> None:
    assert parse([text]) == policy


def test_several_are_joined() -> None:
    assert parse(["latest:2", "best:loss"]) == keep.latest(2) | keep.best("loss")


@pytest.mark.parametrize(
    "text",
    ["", "latest", "latest:", "latest:-1", "latest:²", "best:", "every:1h", "every:m", "all"],
)
def test_what_means_nothing(text) -> None:
    with pytest.raises(UsageError) as caught:
        parse([text])
    assert str(caught.value) == (
        "this policy means nothing\n"
        "  wanted latest:N, best:METRIC[:min|max], every:STEPS or every:MINUTESm, "
        f"found {text!r}"
    )


def test_none_at_all() -> None:
    with pytest.raises(UsageError, match="nothing says what to keep"):
        parse([])


@given(st.lists(st.text()))
def test_any_text_is_a_policy_or_an_error_of_ours(texts) -> None:
    with contextlib.suppress(UsageError):
        assert str(parse(texts))
