"""A report as text, as rich text and as JSON: counts first, details after."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from holdfast.state.report import LoadReport, PartReport, Renaming, Suggestion

WHOLE = PartReport("model", "module", found="model", loaded=3)
PARTLY = PartReport(
    "net",
    "module",
    found="state_dict",
    why="2 of its 4 names and shapes are there",
    loaded=2,
    missing=("head.weight",),
    unexpected=("fc.weight",),
    cast=(("body.bias", "bfloat16", "float32"),),
    renamed=(Renaming("module. left out", (("module.body.weight", "body.weight"),)),),
    tied=(("out.weight", "body.weight"),),
    suggestions=(Suggestion({"fc.": "head."}, 1, "names that begin otherwise"),),
    strict=False,
)
REPORT = LoadReport(
    "a.pt", step=4, id="x", parts=(WHOLE, PARTLY), not_asked=("ema",), opaque=("args (a.B)",),
    not_restored=("the generator of cuda:1",), extra={"epoch": 3}, metrics={"loss": 0.5},
)  # fmt: skip

TEXT = """\
a.pt (step 4)
  model: 3 loaded
  net: 2 loaded, 1 missing, 1 unexpected, 1 of another dtype, 1 renamed, 1 tied
    from state_dict: 2 of its 4 names and shapes are there
    missing in the checkpoint: head.weight
    only in the checkpoint: fc.weight
    cast: body.bias from bfloat16 to float32
    renamed by module. left out: module.body.weight is body.weight
    tied: out.weight is body.weight
    try rename={'fc.': 'head.'}  # names that begin otherwise: 1 more would match
  not asked for: ema
  of other classes: args (a.B)
  not restored: the generator of cuda:1"""


def test_text() -> None:
    assert str(REPORT) == TEXT


def test_rich_text_is_the_same_text_with_colours() -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, color_system=None)
    console.print(REPORT)
    assert out.getvalue().rstrip("\n") == TEXT
    colours = {(str(TEXT[s.start : s.end]), str(s.style)) for s in REPORT.__rich__().spans}
    assert ("model:", "green") in colours
    assert ("rename={'fc.': 'head.'}", "bold cyan") in colours


def test_json_has_all_of_it() -> None:
    value = json.loads(json.dumps(REPORT.to_json()))
    assert value["parts"][1]["suggestions"] == [
        {"rename": {"fc.": "head."}, "matches": 1, "why": "names that begin otherwise"}
    ]
    assert value["parts"][1]["renamed"] == [
        {"rule": "module. left out", "names": [["module.body.weight", "body.weight"]]}
    ]
    assert (value["extra"], value["opaque"]) == (["epoch"], ["args (a.B)"])


def test_parts_are_found_by_name() -> None:
    assert REPORT["net"] is PARTLY
    with pytest.raises(KeyError):
        REPORT["optimizer"]


def test_whether_everything_was_restored() -> None:
    assert WHOLE.is_whole
    assert not PARTLY.is_whole
    assert PARTLY.fits
