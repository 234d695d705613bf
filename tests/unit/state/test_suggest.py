"""What does not match gets the rules that would match it, ready to paste."""

from __future__ import annotations

import pytest

from holdfast.state.suggest import suggest


def shapes(*names: str, shape: str = "(2, 2)") -> dict[str, str]:
    return dict.fromkeys(names, shape)


SHAPES = {"weight": "(4, 4)", "bias": "(4,)"}
LAYERS = [f"layers.{n}.{part}" for n in range(3) for part in ("attn.w", "mlp.w")]


@pytest.mark.parametrize(
    ("live", "saved", "rules"),
    [
        (LAYERS, [f"model.{name}" for name in LAYERS], {"model.": ""}),
        ([f"net.{name}" for name in LAYERS], LAYERS, {"": "net."}),
        (
            [f"net.{name}" for name in LAYERS],
            [f"model.{name}" for name in LAYERS],
            {"model.": "net."},
        ),
        (
            [name.replace("attn", "attention") for name in LAYERS],
            LAYERS,
            {"*.attn.*": "*.attention.*"},
        ),
        (
            [f"{n}.norm.{end}" for n in range(24) for end in ("weight", "bias")],
            [f"{n}.norm.{end}" for n in range(24) for end in ("gamma", "beta")],
            {"*.gamma": "*.weight", "*.beta": "*.bias"},
        ),
        (["enc.0.w", "enc.1.w", "dec.w"], ["e.0.w", "e.1.w", "d.w"], {"e.": "enc.", "d.": "dec."}),
    ],
)
def test_the_rule_that_a_person_would_find(live, saved, rules) -> None:
    first, *_ = suggest(shapes(*live), shapes(*saved))
    assert dict(first.rename) == rules
    assert first.matches == len(set(live) - set(saved))


def test_the_same_shapes_in_the_same_order() -> None:
    live = {"fc1.weight": "(4, 2)", "fc1.bias": "(4,)", "fc2.weight": "(1, 4)"}
    saved = {"a.kernel": "(4, 2)", "a.offset": "(4,)", "b.kernel": "(1, 4)"}
    first, *_ = suggest(live, saved)
    assert dict(first.rename) == dict(zip(saved, live, strict=True))
    assert str(first) == (
        "rename={'a.kernel': 'fc1.weight', 'a.offset': 'fc1.bias', 'b.kernel': 'fc2.weight'}"
        "  # the same shapes in the same order: 3 more would match"
    )


def test_of_rules_that_join_as_many_the_names_that_are_alike_decide() -> None:
    live = ["k2.weight", "k2.bias", "q2.weight", "q2.bias"]
    saved = ["q.weight", "q.bias", "k.weight", "k.bias"]
    first, *_ = suggest(shapes(*live), shapes(*saved))
    assert dict(first.rename) == {"q.": "q2.", "k.": "k2."}


def test_a_last_step_that_is_called_otherwise_is_one_rule_and_not_one_for_each_name() -> None:
    live = {f"{n}.{end}": shape for n in range(24) for end, shape in SHAPES.items()}
    saved = {name.replace("weight", "kernel"): shape for name, shape in live.items()}
    first, *_ = suggest(live, saved)
    assert str(first) == (
        "rename={'*.kernel': '*.weight'}  # a step that is called otherwise: 24 more would match"
    )


def test_names_of_other_shapes_are_never_joined() -> None:
    assert suggest({"net.w": "(2,)"}, {"model.w": "(3,)"}) == ()


def test_a_rule_that_would_undo_what_matches_is_not_the_one() -> None:
    """``{"": "net."}`` would rename the head, too, which matches as it is."""
    live = shapes("head.w", "net.a.w", "net.b.w")
    first, *_ = suggest(live, shapes("head.w", "a.w", "b.w"))
    assert first.matches == 2
    assert "" not in first.rename


@pytest.mark.parametrize(("live", "saved"), [([], ["a"]), (["a"], []), (["a"], ["a"])])
def test_where_nothing_is_left_on_one_side_there_is_nothing_to_suggest(live, saved) -> None:
    assert suggest(shapes(*live), shapes(*saved)) == ()
