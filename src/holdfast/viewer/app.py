"""Addresses → pages: each an HTML shell, its facts at the same address with ``.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from holdfast.errors import HoldfastError, MissingPartError, NoCheckpointError, UsageError
from holdfast.formats.at_rest import collector_at_rest
from holdfast.report.stats import plain
from holdfast.viewer import pages
from holdfast.viewer.shown import Shown

Answer: TypeAlias = Callable[[Request], Response]

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
#: What a page is made of, and the charts' library, which its package brings along.
ASSETS = ("style.css", "theme.js", "view.js", "charts.js", "pages.js")
PLOTLY = "plotly.min.js"

_templates = Environment(
    loader=PackageLoader("holdfast.viewer"), autoescape=True, undefined=StrictUndefined
)


def _attribute(text: str) -> Markup:
    """HTML takes a CR for the end of a line, and names of files may hold one."""
    return Markup(str(escape(text)).replace("\r", "&#13;"))


_templates.filters["attribute"] = _attribute


def make_app(shown: Shown) -> Starlette:
    """The pages of what is shown, without the guard before them."""
    pair = _pair(shown)

    def checkpoint(request: Request) -> dict[str, Any]:
        return pages.checkpoint_facts(_opened(shown, request))

    routes: list[tuple[str, Answer]] = [
        ("/", partial(_home, shown)),
        ("/run", _page(shown, "run", lambda _: "Run")),
        ("/run.json", _json(lambda _: pages.run_facts(_with_run(shown)))),
        ("/checkpoint/{key}.json", partial(_twin, shown, "checkpoint", checkpoint)),
        ("/checkpoint/{key}", _page(shown, "checkpoint", _key)),
        ("/rows/{key}.json", _json(lambda r: _rows(shown, r))),
        ("/areas/{key}.json", _json(lambda r: pages.areas_facts(_opened(shown, r)))),
        ("/scan/{key}.json", _json(lambda r: pages.check_facts(shown, _opened(shown, r), "scan"))),
        (
            "/verify/{key}.json",
            _json(lambda r: pages.check_facts(shown, _opened(shown, r), "verify")),
        ),
        ("/tensor/{key}.json", partial(_twin, shown, "tensor", lambda r: _tensor(shown, r))),
        ("/tensor/{key}", _page(shown, "tensor", _name)),
        ("/slice/{key}.json", _json(lambda r: _slice(shown, r))),
        ("/history.json", _json(lambda r: pages.history_facts(_with_run(shown), _name(r)))),
        ("/diff.json", _json(lambda r: pages.diff_facts(shown, *_two(r, pair)))),
        ("/diff", _page(shown, "diff", lambda _: "Diff")),
        ("/static/{name}", _static),
    ]
    app = Starlette(
        routes=[Route(path, answer, methods=["GET"]) for path, answer in routes],
        exception_handlers={HoldfastError: partial(_letter, shown), 404: partial(_nothing, shown)},
    )
    app.router.redirect_slashes = False  # it would lead to an address without the token
    return app


@cache
def asset(name: str) -> bytes:
    """The bytes of a file that pages load.

    Raises:
        KeyError: there is no such file.
    """
    if name == PLOTLY:
        return (resources.files("plotly") / "package_data" / PLOTLY).read_bytes()
    if name not in ASSETS:
        raise KeyError(name)
    return (resources.files("holdfast.viewer") / "static" / name).read_bytes()


def rendered(shown: Shown, kind: str, title: str, root: str, **more: Any) -> str:
    """The shell of a page; ``root`` is what its links begin with."""
    values = {
        "kind": kind,
        "title": title,
        "root": root,
        "run": shown.name,
        "pair": _pair(shown),
        **more,
    }
    defaults = {"letter": None, "inlined": None, "key": ""}
    return _templates.get_template("page.html").render({**defaults, **values})


def _page(shown: Shown, kind: str, title: Callable[[Request], str]) -> Answer:
    def answer(request: Request) -> Response:
        key = request.path_params.get("key", "")
        if key:
            shown.path(key)  # what is not shown has no page
        return _html(rendered(shown, kind, title(request), _root(request), key=key))

    return answer


def _html(text: str, status: int = 200) -> Response:
    """A page; names of files may hold bytes that are no text."""
    return Response(text.encode("utf-8", "backslashreplace"), status, media_type="text/html")


def encoded(facts: Any) -> str:
    """Facts as JSON in ASCII: names may be no text, and a record may hold NaN."""
    try:
        return json.dumps(facts, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(facts), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return plain(value) if isinstance(value, float) else value


def _json(facts: Callable[[Request], Any]) -> Answer:
    def answer(request: Request) -> Response:
        with collector_at_rest():
            return Response(encoded(facts(request)), media_type="application/json")

    return answer


def _home(shown: Shown, request: Request) -> Response:
    return RedirectResponse(_root(request) + home_of(shown))


def home_of(shown: Shown) -> str:
    """The address of the page that one begins with."""
    if shown.run is not None:
        return "/run"
    if _pair(shown):
        return "/diff"
    return f"/checkpoint/{quote(shown.keys[0], safe='')}"


def _pair(shown: Shown) -> bool:
    return shown.run is None and len(shown.keys) == 2


def _twin(
    shown: Shown, kind: str, facts: Callable[[Request], dict[str, Any]], request: Request
) -> Response:
    """The facts of a page; the page itself of what has a name that ends so."""
    key = request.path_params["key"]
    if not shown.has(key) and shown.has(f"{key}.json"):
        key, name = f"{key}.json", request.query_params.get("name", "")
        title = name if kind == "tensor" else key
        return _html(rendered(shown, kind, title, _root(request), key=key))
    return _json(facts)(request)


def _opened(shown: Shown, request: Request) -> Any:
    return shown.open(request.path_params["key"])


def _with_run(shown: Shown) -> Shown:
    if shown.run is None:
        raise NoCheckpointError("no run is shown here, but one checkpoint")
    return shown


def _key(request: Request) -> str:
    return str(request.path_params["key"])


def _name(request: Request) -> str:
    name = request.query_params.get("name")
    if name is None:
        raise UsageError("which tensor?", wanted="?name=… in the address")
    return name


def _two(request: Request, is_pair: bool) -> tuple[str, str]:
    given = [request.query_params.get(side) for side in ("a", "b")]
    if is_pair:
        return "a", "b"
    if None in given:
        raise UsageError("which two checkpoints?", wanted="?a=…&b=… in the address")
    return str(given[0]), str(given[1])


def _rows(shown: Shown, request: Request) -> dict[str, Any]:
    asked = request.query_params
    if "name" in asked:
        return pages.row_facts(_opened(shown, request), asked["name"])
    return pages.rows_facts(
        _opened(shown, request),
        filter=asked.get("filter", "")[:500],
        sort=asked.get("sort", "tree"),
        closed=asked.getlist("closed")[:1000],
        start=_number(asked.get("start", "0")),
        count=_number(asked.get("count", "200")),
    )


def _tensor(shown: Shown, request: Request) -> dict[str, Any]:
    return pages.tensor_facts(shown, _opened(shown, request), _name(request))


def _slice(shown: Shown, request: Request) -> dict[str, Any]:
    index = request.query_params.get("index", "")
    return pages.slice_facts(_opened(shown, request), _name(request), index)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise UsageError("this is no number of rows", found=repr(text)[:100])
    return int(text)


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    try:
        data = asset(name)
    except KeyError:
        return Response("no such file\n", 404, media_type="text/plain")
    headers = {"cache-control": "private, max-age=86400, immutable"}  # of this server's own link
    return Response(data, media_type=_TYPES[Path(name).suffix], headers=headers)


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _letter(shown: Shown, request: Request, error: Exception) -> Response:
    """What is wrong, as a page or as JSON: a damaged file is an answer, too."""
    missing = isinstance(error, NoCheckpointError | MissingPartError)
    status = 404 if missing else 400 if isinstance(error, UsageError) else 422
    if request.url.path.endswith(".json"):
        return Response(encoded({"error": str(error)}), status, media_type="application/json")
    html = rendered(shown, "letter", "Error", _root(request), letter=str(error))
    return _html(html, status)


def _nothing(shown: Shown, request: Request, _error: Exception) -> Response:
    return _letter(shown, request, NoCheckpointError("there is no such page"))
