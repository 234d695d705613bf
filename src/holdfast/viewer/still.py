"""One file that shows a page by itself: its facts, styles, scripts and the charts' library."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from holdfast.errors import UsageError
from holdfast.io.commit import commit
from holdfast.io.sink import Sink
from holdfast.report.rows import arranged, row
from holdfast.viewer import pages
from holdfast.viewer.app import ASSETS, PLOTLY, asset, encoded, home_of, rendered
from holdfast.viewer.shown import Shown

#: Rows of a table that one file holds, and tensors whose histograms it shows beside each other.
_MOST_ROWS = 150_000
_MOST_BESIDE = 40


def write(shown: Shown, target: Path) -> int:
    """Write the page that one begins with; the bytes it has.

    Raises:
        UsageError: the target is no .html file, or a file of what is shown.
        FileError: the file system said no; what was there before is untouched.
    """
    _check(shown, target)
    data = html(shown).encode("utf-8", "backslashreplace")  # names of files may be no text

    def fill(data: bytes, sink: Sink) -> None:
        sink(data)
        sink.end()

    commit(target, len(data), partial(fill, data), what="page")
    return len(data)


def _check(shown: Shown, target: Path) -> None:
    """Go on only with a file that is nothing else: a page must not replace a checkpoint."""
    is_page = target.suffix.lower() in (".html", ".htm")
    is_shown = target.exists() and any(
        path.exists() and (target.samefile(path) or target.resolve().is_relative_to(path.resolve()))
        for path in shown.paths
    )
    if not is_page or is_shown:
        raise UsageError(
            "a page is written into a file of its own",
            file=target,
            wanted="a name that ends in .html",
            found="a file of what is shown" if is_shown else f"{target.suffix or 'no suffix'}",
        )


def html(shown: Shown) -> str:
    """The page as one text that asks nothing of anybody."""
    kind = home_of(shown).split("/")[1]
    key = shown.keys[0] if kind == "checkpoint" else ""
    theme, *names = [name for name in ASSETS if name.endswith(".js")]
    scripts = [_script(asset(name).decode()) for name in (PLOTLY, *names)]
    inlined = {
        "theme": _script(asset(theme).decode()),
        "facts": Markup(_json(_facts(shown, kind, key))),
        "style": Markup(asset("style.css").decode()),
        "scripts": scripts,
    }
    return rendered(shown, kind, kind.capitalize(), "", key=key, inlined=inlined)


def _facts(shown: Shown, kind: str, key: str) -> dict[str, Any]:
    """The facts of a page, by the addresses that its script asks for."""
    if kind == "run":
        return {"/run.json": pages.run_facts(shown)}
    if kind == "diff":
        facts = pages.diff_facts(shown, "a", "b")
        counted = [each for each in facts["changes"] if each["sums"] is not None][:_MOST_BESIDE]
        return {"/diff.json": facts, "histograms": pages.beside_each_other(shown, counted)}
    opened = shown.open(key)
    total = opened.summary.total.nbytes
    tensors = opened.summary.tensors
    lines = arranged(tensors)[:_MOST_ROWS]
    rows = [row(line, tensors, total) for line in lines]
    shown_here = sum(line.place is not None for line in lines)
    address = f"/checkpoint/{quote(key, safe='!~*()' + chr(39))}.json"  # as encodeURIComponent does
    own = address.replace("/checkpoint/", "/areas/", 1)
    return {
        address: pages.checkpoint_facts(opened),
        own: pages.areas_facts(opened),
        "rows": rows,
        "left_out": len(tensors) - shown_here,
    }


def _json(facts: Any) -> str:
    """JSON that nothing in it can end the script element of."""
    return encoded(facts).replace("<", "\\u003c")


def _script(text: str) -> Markup:
    return Markup(text.replace("</script", "<\\/script"))
