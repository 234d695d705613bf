from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.runs.naming import Template, free_name, pin_name

NOON = datetime(2026, 3, 4, 12, 5, 6)
CURE = '  Write it as name="step-{step:08d}" or name="{time:%Y%m%d_%H%M%S}-{step}".'


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("step-{step:08d}", "step-00000600.pt"),
        ("step-{step:08d}.pt", "step-00000600.pt"),
        ("step-{step:08d}.pth", "step-00000600.pth"),
        ("{step}", "600.pt"),
        ("v1.{step}", "v1.600.pt"),
        ("{time:%Y%m%d_%H%M%S}-{step}", "20260304_120506-600.pt"),
        ("{step:x} {time}", "258 20260304_120506.pt"),
        ("{step:,}", "600.pt"),
        ("{{{step:>5}", "{  600.pt"),
        ("模型_{step:+d}.pth", "模型_+600.pth"),
        ("{step:-<6}", "600---.pt"),
    ],
)
def test_a_template_gives_a_file_name(text, name):
    assert Template(text).format(600, NOON) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (7, "is no text"),
        ("model", "gives two steps the same name: it has no {step}"),
        ("model-{time}", "gives two steps the same name: it has no {step}"),
        ("{step:0<8}", "gives two steps the same name: {step:0<8} fills up with '0'"),
        ("{step:5>8}", "gives two steps the same name: {step:5>8} fills up with '5'"),
        ("{step:^08}", "gives two steps the same name: {step:^08} fills up with '0'"),
        ("{step}{step}", "could give two steps the same name: its fields touch each other"),
        ("{step:e}", "formats the step with 'e', which is no format of whole numbers"),
        ("{step:c}", "formats the step with 'c', which is no format of whole numbers"),
        ("{step:.1f}", "formats the step with '.1f', which is no format of whole numbers"),
        ("{step:99999d}", "formats the step with '99999d', which is no format of whole numbers"),
        ("{step:{time}}", "has a field within a field: {step:{time}}"),
        ("{step!r}", "has the field {step!r}, where only {step} and {time} are known"),
        ("{epoch}-{step}", "has the field {epoch}, where only {step} and {time} are known"),
        ("{}", "has the field {}, where only {step} and {time} are known"),
        ("{step.real}", "has the field {step.real}, where only {step} and {time} are known"),
        ("{step", "cannot be read (expected '}' before end of string)"),
        ("{step:,x}", "cannot be filled in (Cannot specify ',' with 'x'.)"),
        ("a/{step}", "gives names with '/', a path separator"),
        ("a\\{step}", "gives names with '\\\\', a path separator"),
        ("{time:%D}-{step}", "gives names with '/', a path separator"),
        ("a\n{step}", "gives names with '\\n', a sign that names cannot hold"),
        ("\udcff{step}", "gives names with '\\udcff', a sign that names cannot hold"),
        (".{step}", "gives a hidden name: it starts with a dot"),
        ("step-{step}.ckpt", "gives a suffix that is neither .pt nor .pth"),
        ("step-{step}.pin", "gives a suffix that is neither .pt nor .pth"),
        ("模" * 70 + "{step}", "gives names of over 200 bytes"),
    ],
)
def test_a_template_that_would_go_wrong_is_a_letter(text, why):
    with pytest.raises(UsageError) as caught:
        Template(text)
    assert str(caught.value) == f"the name template {text!r} {why}\n{CURE}"


@pytest.mark.parametrize("step", [-1, True, 1.0, None, "1"])
def test_a_step_is_a_whole_number(step):
    with pytest.raises(UsageError, match="a step is a whole number from 0 on"):
        Template("{step}").format(step, NOON)


fills = st.sampled_from(["", "0", "_", "-", "5", "a", " "])
specs = st.tuples(
    fills,
    st.sampled_from(["", "<", ">", "=", "^"]),
    st.sampled_from(["", "+", "#"]),
    st.sampled_from(["", "0"]),
    st.sampled_from(["", "3", "8"]),
    st.sampled_from(["", ",", "_"]),
    st.sampled_from(["", "b", "d", "o", "x", "X", "n", "c", "e", "g", "%"]),
).map(lambda parts: "".join(parts) if parts[1] else "".join(parts[1:]))
steps = st.one_of(st.integers(0, 300), st.integers(0, 10**12))


@given(specs, steps, steps)
def test_a_template_that_is_taken_never_gives_two_steps_one_name(spec, one, other):
    try:
        template = Template("s{step:" + spec + "}")
    except UsageError:
        return
    names = {template.format(step, NOON) for step in (one, other)}
    assert len(names) == len({one, other})


@given(st.text(st.sampled_from("st{}ep:time!.0d%Y-_/\\"), max_size=20))
def test_any_text_is_a_template_or_a_letter(text):
    try:
        name = Template(text).format(3, NOON)
    except UsageError:
        return
    assert name.endswith((".pt", ".pth"))
    assert "/" not in name


def test_a_pin_stands_beside_its_checkpoint():
    assert pin_name("step-00000600.pt") == "step-00000600.pin"
    assert pin_name("step-00000600.2.pth") == "step-00000600.2.pin"
    assert pin_name("best.ckpt") == "best.ckpt.pin"
    assert pin_name("step-00000600") == "step-00000600.pin"


def test_a_name_held_by_an_abandoned_branch_gets_a_number():
    taken = {"step-00000600.pt"}
    assert free_name("step-00000500.pt", taken) == "step-00000500.pt"
    assert free_name("step-00000600.pt", taken) == "step-00000600.2.pt"
    assert free_name("step-00000600.pt", {*taken, "step-00000600.2.pt"}) == "step-00000600.3.pt"


@pytest.mark.parametrize("left", ["step-6.pin", "step-6"])
def test_a_name_whose_pin_or_folder_is_there_is_taken(left):
    assert free_name("step-6.pt", {left}) == "step-6.2.pt"


@given(
    st.sampled_from(["a.pt", "a.2.pt", "b.pth"]),
    st.sets(
        st.sampled_from(
            ["a.pt", "a.2.pt", "a.2.2.pt", "a.3.pin", "a.4", "b.pth", "b.2.pth", "b.pt"]
        )
    ),
)
def test_a_free_name_is_never_taken(name, taken):
    free = free_name(name, taken)
    assert free not in taken
    assert pin_name(free) not in taken
    assert free == name or name in taken or {pin_name(name), name.rpartition(".")[0]} & taken
