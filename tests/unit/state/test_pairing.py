"""Names are paired by the caller's rules, then as they are, then without what wrappers add."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.state.pairing import pair, plain_name
from holdfast.state.report import Renaming


def test_names_that_are_the_same_need_no_word() -> None:
    found = pair(["a.w", "b.w"], ["b.w", "a.w"])
    assert dict(found.found) == {"a.w": "a.w", "b.w": "b.w"}
    assert (found.missing, found.unexpected, found.renamed) == ((), (), ())


@pytest.mark.parametrize(
    ("live", "saved", "words"),
    [
        ("fc.w", "module.fc.w", "module. left out"),
        ("module.fc.w", "fc.w", "module. added"),
        ("fc.w", "module._orig_mod.fc.w", "module._orig_mod. left out"),
        ("fc.w", "_orig_mod.module.module.fc.w", "_orig_mod.module.module. left out"),
        ("enc.fc.w", "enc._orig_mod.fc.w", "_orig_mod. left out"),
        ("module.fc.w", "_orig_mod.fc.w", "_orig_mod. left out, module. added"),
        (
            "module._orig_mod.fc.w",
            "_orig_mod.module.fc.w",
            "module. and _orig_mod. in another order",
        ),
        ("fc.w", "_forward_module.module.fc.w", "_forward_module.module. left out"),
    ],
)
def test_what_wrappers_add_is_handled_on_either_side_and_reported(live, saved, words) -> None:
    found = pair([live], [saved])
    assert dict(found.found) == {live: saved}
    assert found.renamed == (Renaming(words, ((saved, live),)),)


def test_a_module_that_is_called_module_is_no_wrapper() -> None:
    """``module.w`` and ``w`` are two tensors here: names that are the same come first."""
    found = pair(["module.w", "w"], ["w", "module.w"])
    assert dict(found.found) == {"module.w": "module.w", "w": "w"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("live", [["weight", "module.weight"], ["p.w", "module.p.w"]])
def test_a_wrapper_around_a_module_of_that_name_swaps_nothing(live, prefix) -> None:
    saved = [prefix + name for name in live]
    assert dict(pair(live, saved).found) == dict(zip(live, saved, strict=True))
    assert dict(pair(saved, live).found) == dict(zip(saved, live, strict=True))


def test_what_is_settled_by_whole_prefixes_is_not_paired_again_by_plain_names() -> None:
    found = pair(["a.w", "module.a.w"], ["a.w", "_orig_mod.a.w"])
    assert dict(found.found) == {"a.w": "a.w"}
    assert (found.missing, found.unexpected) == (("module.a.w",), ("_orig_mod.a.w",))


def test_two_that_would_be_one_without_wrappers_are_not_guessed_at() -> None:
    found = pair(["fc.w"], ["module.fc.w", "_orig_mod.fc.w"])
    assert found.found == {}
    assert found.missing == ("fc.w",)
    assert found.unexpected == ("module.fc.w", "_orig_mod.fc.w")


def test_rules_come_first_and_wrappers_may_be_around_what_they_give() -> None:
    found = pair(
        ["enc.w", "head.w"], ["module.encoder.w", "head.w"], {"module.encoder": "module.enc"}
    )
    assert dict(found.found) == {"enc.w": "module.encoder.w", "head.w": "head.w"}
    assert found.renamed == (
        Renaming("'module.encoder' → 'module.enc'", (("module.encoder.w", "module.enc.w"),)),
        Renaming("module. left out", (("module.enc.w", "enc.w"),)),
    )
    assert found.rules == {"module.encoder"}


def test_a_rule_that_fits_nothing_here_may_fit_in_another_part() -> None:
    assert pair(["w"], ["w"], {"other": "x"}).rules == frozenset()


def test_rules_that_give_two_names_one_are_refused() -> None:
    with pytest.raises(UsageError, match="two tensors would have one name"):
        pair(["b.w"], ["a.w", "b.w"], {"a": "b"})


STEPS = st.lists(st.sampled_from(["a", "b", "0", "w"]), min_size=1, max_size=4)
NAMES = st.lists(STEPS.map(".".join), unique=True, min_size=1, max_size=8)


@given(NAMES, NAMES, st.data())
def test_every_name_is_paired_or_listed_and_wrappers_change_nothing(live, saved, data) -> None:
    plain = pair(live, saved)
    assert set(plain.found) | set(plain.missing) == set(live)
    assert set(plain.found.values()) | set(plain.unexpected) == set(saved)
    assert set(plain.found) == set(live) & set(saved)
    wrap = data.draw(st.sampled_from(["module.", "_orig_mod.", "module._orig_mod."]))
    wrapped = pair(live, [wrap + name for name in saved])
    assert {name: plain_name(old) for name, old in wrapped.found.items()} == dict(plain.found)
