"""The facts of each page as JSON values, and the lines that give the same elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast import looking
from holdfast.errors import UsageError
from holdfast.measuring.slices import slice_of, without_picture
from holdfast.measuring.stats import all_stats
from holdfast.report.areas import areas
from holdfast.report.rows import Line, arranged, row
from holdfast.runs.marks import mark
from holdfast.runs.timeline import timeline
from holdfast.viewer.headers import stamp_of
from holdfast.viewer.history import history
from holdfast.viewer.shown import Opened, Shown, as_text

#: Plain values and objects that a page lists; the command line lists all.
_MOST_VALUES = 2000
#: Rows that are given at once.
_MOST_ROWS = 500
#: Arrangements of a checkpoint's rows, and comparisons, that are kept.
_MOST_ARRANGED = 20
_MOST_COMPARED = 4


def run_facts(shown: Shown) -> dict[str, Any]:
    """The page of a run; listed anew where something in the folder is another by now."""
    assert shown.run is not None
    stamp, path = shown.stamp(), str(shown.run)
    with shown.listing:  # several pages of one run wait for one listing
        if shown.listed is None or shown.listed[0] != stamp:
            shown.listed = stamp, timeline(mark(path, shown.entries()))
        facts = shown.listed[1]
    return {
        **facts,
        "checkpoints": [_with_check(each, shown, stamp) for each in facts["checkpoints"]],
        "lines": _lines(
            f"run = holdfast.Run({path!r})\nrun.checkpoints()",
            f"holdfast list {_path(path)}",
            f"holdfast verify {_path(path)} --all",
        ),
    }


def _with_check(
    facts: dict[str, Any], shown: Shown, stamps: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    """The same with what ``verify`` has said of the file since this page is served."""
    stamp, is_whole = shown.verified.get(as_text(facts["name"]), (None, None))
    if stamp is None or stamp != stamps.get(facts["name"]):
        return {**facts, "is_whole": None}
    marks = facts["marks"] if is_whole else [*facts["marks"], "damaged"]
    return {**facts, "is_whole": is_whole, "marks": marks}


def checkpoint_facts(opened: Opened) -> dict[str, Any]:
    """The page of a checkpoint, without the rows of its tensors."""
    summary, path = opened.summary, str(opened.checkpoint.path)
    return {
        "key": opened.key,
        "file": summary.file,
        "format": summary.format,
        "file_nbytes": summary.file_nbytes,
        "record": summary.record,
        "parts": [part._asdict() for part in summary.parts],
        "dtypes": [dtype._asdict() for dtype in summary.dtypes],
        "total": summary.total._asdict(),
        "values": [value._asdict() for value in summary.values[:_MOST_VALUES]],
        "opaques": [opaque._asdict() for opaque in summary.opaques[:_MOST_VALUES]],
        "more": {
            "values": max(0, len(summary.values) - _MOST_VALUES),
            "opaques": max(0, len(summary.opaques) - _MOST_VALUES),
        },
        "metadata": dict(summary.metadata),
        "programs": list(summary.programs),
        "symbols": list(summary.symbols),
        "notes": list(summary.notes),
        "is_complete": summary.is_complete,
        "lines": _lines(
            f"holdfast.open({path!r}).summary()",
            f"holdfast show {_path(path)}",
            f"holdfast verify {_path(path)}",
            f"holdfast scan {_path(path)}",
        ),
    }


def areas_facts(opened: Opened) -> dict[str, Any]:
    """Where the bytes are."""
    if opened.areas is None:
        opened.areas = areas(opened.summary.tensors)
    return {"areas": [area._asdict() for area in opened.areas]}


def rows_facts(
    opened: Opened, *, filter: str, sort: str, closed: Sequence[str], start: int, count: int
) -> dict[str, Any]:
    """A window of the rows of a checkpoint's tensors; ``tensors`` counts those that match."""
    tensors, asked = opened.summary.tensors, (filter, sort, tuple(closed))
    lines = opened.arranged.get(asked)
    if lines is None:
        if len(opened.arranged) > _MOST_ARRANGED:
            opened.arranged.clear()
        lines = opened.arranged[asked] = arranged(tensors, filter, sort, closed)
    window = lines[start : start + min(count, _MOST_ROWS)]
    total = opened.summary.total.nbytes
    matching = sum(line.place is not None for line in lines)
    matching += sum(line.tensors for line in lines if not line.is_open)
    return {
        "total": len(lines),
        "tensors": matching,
        "start": start,
        "rows": [row(line, tensors, total) for line in window],
    }


def row_facts(opened: Opened, name: str) -> dict[str, Any]:
    """The row of the one tensor of that name, and the lines that read it: no byte of it is read."""
    name = opened.tensor(name).name  # or a letter, where there is none
    tensors = opened.summary.tensors
    (at,) = [at for at, each in enumerate(tensors) if each.name == name]
    return {
        **row(Line(name, place=at), tensors, opened.summary.total.nbytes),
        "lines": _tensor_lines(opened, name),
    }


def check_facts(shown: Shown, opened: Opened, what: str) -> dict[str, Any]:
    """What ``scan`` or ``verify`` says of a checkpoint; its run's page remembers the latter."""
    checkpoint = opened.checkpoint
    report = checkpoint.scan() if what == "scan" else checkpoint.verify()
    if what == "verify":
        shown.verified[opened.key] = opened.stamp, report.ok
    return {"what": what, "ok": report.ok, "text": report.to_text(), "report": report.to_json()}


def tensor_facts(shown: Shown, opened: Opened, name: str) -> dict[str, Any]:
    """The page of a tensor, with its statistics: its bytes are read."""
    leaf = opened.tensor(name)
    (made,) = all_stats([leaf], opened.reader())
    return {
        "key": opened.key,
        "file": opened.summary.file,
        "stats": made.to_json(),
        "has_history": shown.run is not None,
        "lines": _tensor_lines(opened, leaf.name),
    }


def _tensor_lines(opened: Opened, name: str) -> dict[str, Any]:
    path = str(opened.checkpoint.path)
    return _lines(
        f"(tensor,) = holdfast.stats({path!r}, name={name!r}).tensors\n"
        f"array = holdfast.open({path!r}).array({name!r})",
        f"holdfast show {_path(path)} {_name(name)}",
        f"holdfast stats {_path(path)} {_name(name)}",
    )


def slice_facts(opened: Opened, name: str, index: str) -> dict[str, Any]:
    """A two-dimensional slice of a tensor, thinned out; its checksum is not compared.

    ``why`` says why there is none, and is None where there is one.
    """
    node = opened.tensor(name).value
    if (why := without_picture(node)) is not None:
        return {"why": why}
    try:
        places = [int(each) for each in index.split(",") if each]
    except ValueError as error:
        raise UsageError("a slice is named by numbers", found=repr(index)[:100]) from error
    reader = opened.reader(verify=False)
    return {"why": None, **slice_of(node, reader, places).to_json()}


def history_facts(shown: Shown, name: str) -> dict[str, Any]:
    """What became of a tensor over a run: one point for each checkpoint that is there."""
    path, checkpoints = str(shown.run), run_facts(shown)["checkpoints"]
    files = f"{_path(path)}/*{_quoted(Path(checkpoints[-1]['name']).suffix) if checkpoints else ''}"
    return {
        "name": name,
        "points": list(history(shown, checkpoints, name)),
        "lines": _lines(
            _HISTORY.format(path=path, name=name),
            f'for file in {files}; do holdfast stats "$file" {_name(name)}; done',
        ),
    }


_HISTORY = """import numpy as np

before = None
for entry in holdfast.Run({path!r}).checkpoints():
    with holdfast.open(entry.path) as checkpoint:
        now = checkpoint.array({name!r}).astype(float)
    change = None if before is None else np.linalg.norm(now - before) / np.linalg.norm(before)
    print(entry.step, np.linalg.norm(now), now.mean(), now.std(), change)
    before = now"""


def diff_facts(shown: Shown, a: str, b: str) -> dict[str, Any]:
    """The page of two checkpoints; compared anew where one is another file by now."""
    paths = shown.path(a), shown.path(b)
    asked = a, b, *(stamp_of(path) for path in paths)
    with shown.comparing:  # every byte is read: pages that ask for one pair wait for one comparison
        if asked not in shown.compared:
            shown.compared[asked] = _compared(*map(str, paths))
            while len(shown.compared) > _MOST_COMPARED:
                shown.compared.popitem(last=False)
        return {**shown.compared[asked], "keys": [a, b]}


def _compared(one: str, other: str) -> dict[str, Any]:
    report = looking.diff(one, other)
    return {
        **report.to_json(),
        "words": report.in_words(),
        "likely_part": report.likely_part,
        "lines": _lines(
            f"holdfast.diff({one!r}, {other!r})",
            f"holdfast diff {_path(one)} {_path(other)}",
        ),
    }


def beside_each_other(shown: Shown, changes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The statistics of both sides of these changes of ``a`` and ``b``, by name."""
    return {
        change["name"]: [
            {"stats": tensor_facts(shown, shown.open(key), name)["stats"]}
            for key, name in (("a", change["old_name"] or change["name"]), ("b", change["name"]))
        ]
        for change in changes
    }


def _lines(python: str, *commands: str) -> dict[str, Any]:
    return {"python": f"import holdfast\n{python}", "commands": list(commands)}


def _quoted(text: str | Path) -> str:
    """A word as the shell takes it, even where it is pasted: controls are escaped (bash, zsh)."""
    text = str(text)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(each) for each in text) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    is_byte = "\udc80" <= character <= "\udcff"  # of a file's name that is no text
    data = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def _path(path: str | Path) -> str:
    """A path as an argument, which is no option."""
    text = str(path)
    return _quoted(f"./{text}" if text.startswith("-") else text)


def _name(name: str) -> str:
    """A tensor's name as the last argument, which is no option."""
    return f"-- {_quoted(name)}" if name.startswith("-") else _quoted(name)
