from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import FileError, NoCheckpointError, TruncatedError
from holdfast.runs.entry import Entry
from holdfast.runs.marks import mark, overview
from holdfast.spec.record import Record


def saved(step: int, *, loss: float | None = None, pinned: bool = False, **metrics) -> Entry:
    if loss is not None:
        metrics["loss"] = loss
    record = Record(
        id=str(step), step=step, sequence=step, metrics=metrics, best={"loss": "min", "f1": "max"}
    )
    path = Path(f"step-{step}.pt")
    return Entry(path, record, is_pinned=pinned, nbytes=10, step=step, order_by="sequence")


def test_marks_say_latest_best_and_pinned() -> None:
    entries = [saved(0, loss=0.1, f1=0.5), saved(1, loss=0.5, f1=0.9, pinned=True), saved(2)]
    seen = mark("run", entries)
    assert seen.marks == (("best loss",), ("best f1", "pinned"), ("latest",))
    assert (seen.latest, seen.nbytes, seen.has_foreign) == ("step-2.pt", 30, False)
    assert seen.best == {"loss": "step-0.pt", "f1": "step-1.pt"}
    assert seen.metrics == ("f1", "loss")


def test_nan_is_never_best() -> None:
    assert mark("run", [saved(0, loss=float("nan")), saved(1, loss=3.0)]).best == {
        "loss": "step-1.pt"
    }


def test_the_unreadable_is_never_latest() -> None:
    bad = Entry(Path("bad.pt"), problem=TruncatedError("this file ends too early"))
    seen = mark("run", [saved(0), bad])
    assert seen.latest == "step-0.pt"
    assert seen.marks[1] == ("unreadable: this file ends too early",)
    assert mark("run", [bad]).latest is None
    assert not mark("run", [bad]).has_foreign


@pytest.mark.parametrize(
    ("order_by", "said"),
    [
        ("time", "other code's, by file time"),
        ("epoch", "other code's, by epoch"),
        ("step", "other code's, by step"),
    ],
)
def test_what_other_code_wrote_says_what_it_is_ordered_by(order_by, said) -> None:
    seen = mark("run", [Entry(Path("a.pt"), order_by=order_by)])
    assert seen.marks == ((said, "latest"),)
    assert seen.has_foreign


def test_a_folder_without_checkpoints_is_an_error(tmp_path) -> None:
    with pytest.raises(NoCheckpointError, match="there is no checkpoint in this folder"):
        overview(tmp_path)
    with pytest.raises(NoCheckpointError, match="there is no such folder"):
        overview(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="this is a file"):
        overview(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
