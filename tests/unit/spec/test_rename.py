"""Rules that rename: exact names, prefixes, patterns; two names never become one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.spec.rename import parse, rename

NAMES = ["module.enc.0.weight", "module.enc.1.weight", "module.head.bias", "enclosed"]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"enclosed": "x"}, [*NAMES[:3], "x"]),
        ({"module.": ""}, ["enc.0.weight", "enc.1.weight", "head.bias", "enclosed"]),
        ({"module": "net"}, ["net.enc.0.weight", "net.enc.1.weight", "net.head.bias", "enclosed"]),
        ({"module.enc": "e"}, ["e.0.weight", "e.1.weight", "module.head.bias", "enclosed"]),
        ({"": "model."}, [f"model.{name}" for name in NAMES]),
        (
            {"module.enc.*.weight": "layers.*.w"},
            ["layers.0.w", "layers.1.w", "module.head.bias", "enclosed"],
        ),
        ({"module.*.*.weight": "*"}, UsageError),
        ({"*.bias": "*.offset"}, [*NAMES[:2], "module.head.offset", "enclosed"]),
        # The first rule that fits counts.
        (
            {"module.head.bias": "b", "module": "net"},
            ["net.enc.0.weight", "net.enc.1.weight", "b", "enclosed"],
        ),
        (str.upper, [name.upper() for name in NAMES]),
    ],
)
def test_rules(rules, expected):
    if expected is UsageError:
        with pytest.raises(UsageError, match="two tensors would have one name"):
            rename(NAMES, rules)
        return
    assert list(rename(NAMES, rules).names.values()) == expected


def test_a_prefix_is_whole_steps():
    """``enc`` is no prefix of ``enclosed``."""
    with pytest.raises(UsageError) as caught:
        rename(["enclosed"], {"enc": "e"})
    assert str(caught.value) == (
        "a rule renames nothing: no name fits it\n"
        "  wanted 'enc', found enclosed\n"
        "  A rule has the name as it is in the file, or whole steps from its beginning, or a *."
    )


@pytest.mark.parametrize(
    ("rule", "near"),
    [("modul.head.", "module.head.bias"), ("*.wieght", "enclosed"), ("encloses", "enclosed")],
)
def test_a_rule_that_fits_nothing_gets_the_names_nearest_to_it(rule, near):
    with pytest.raises(UsageError) as caught:
        rename(NAMES, {rule: "x"})
    assert near in str(caught.value).splitlines()[1]


def test_a_rule_may_be_idle_where_others_may_use_it():
    made = rename(NAMES, {"nothing": "x", "module": "net"}, may_be_idle=True)
    assert list(made.names.values())[2:] == ["net.head.bias", "enclosed"]
    assert made.rules == dict.fromkeys(NAMES[:3], "module")


def test_of_a_function_the_names_it_changed_are_known():
    def upper_head(name):
        return name.upper() if "head" in name else name

    assert rename(NAMES, upper_head).rules == {"module.head.bias": "upper_head"}


def test_two_names_never_become_one():
    with pytest.raises(UsageError) as caught:
        rename(["a.w", "b.w"], {"a": "b"})
    assert str(caught.value) == (
        "two tensors would have one name\n"
        "  wanted a name for each, found 'a.w' and 'b.w' both become 'b.w'"
    )


def test_a_pattern_puts_back_what_it_takes():
    with pytest.raises(UsageError, match="a pattern puts back as many"):
        rename(["a.w"], {"*.w": "*.*"})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("old → new", ("old", "new")),
        ("old -> new", ("old", "new")),
        ("old=>new", ("old", "new")),
        ("module. ->", ("module.", "")),
        ("-> model.", ("", "model.")),
    ],
)
def test_rules_as_people_write_them(text, rule):
    assert parse(text) == rule


@pytest.mark.parametrize("text", ["old new", "a -> b -> c", ""])
def test_what_is_no_rule(text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value).splitlines()[:2] == [
        "this is no rule to rename by",
        f"  wanted 'old → new' (or 'old -> new'), found {text!r}",
    ]


steps = st.lists(st.sampled_from(["a", "b", "net", "0", "weight"]), min_size=1, max_size=4)


@given(st.lists(steps.map(".".join), unique=True, min_size=1), st.data())
def test_a_prefix_can_be_put_on_and_taken_off_again(names, data):
    prefix = data.draw(steps.map(".".join))
    there = rename(names, {"": f"{prefix}."}).names
    back = rename(there.values(), {f"{prefix}.": ""}).names
    assert [back[there[name]] for name in names] == names


@pytest.mark.parametrize("rules", [["a -> b"], {1: 2}, {"a": None}, "a -> b"])
def test_rules_that_are_no_texts_get_a_letter(rules) -> None:
    with pytest.raises(UsageError, match="rename= takes texts by texts, or a function"):
        rename(["a"], rules)
