"""Who is let in, and what the answers carry; asked by a plain socket client, as anybody could."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from viewing import TOKEN

from holdfast.viewer.guard import POLICY


def ask(link: str, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    place = urlsplit(link)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 0)
    try:
        given = {"Host": place.netloc, **{name.replace("_", "-"): v for name, v in headers.items()}}
        connection.request(method, path, headers=given)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_without_the_token_nothing_is_said(link: str) -> None:
    for path in ("/", "/run", "/run.json", "/wrong/run.json", f"/{TOKEN}x/run", "//run", ""):
        status, _, text = ask(link, path or "/")
        assert (status, text.startswith(b"The link that holdfast view printed")) == (403, True)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "evil.example:80", "[::1]:80"])
def test_other_names_of_this_machine_are_refused(link: str, host: str) -> None:
    """DNS rebinding: a site's own name that leads here."""
    assert ask(link, f"/{TOKEN}/run.json", Host=host)[0] == 421


def test_localhost_is_this_machine(link: str) -> None:
    port = urlsplit(link).port
    assert ask(link, f"/{TOKEN}/run.json", Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
def test_pages_of_other_sites_are_refused(link: str, origin: str) -> None:
    assert ask(link, f"/{TOKEN}/run.json", Origin=origin)[0] == 403


def test_an_origin_has_a_scheme(link: str) -> None:
    assert ask(link, f"/{TOKEN}/run.json", Origin=urlsplit(link).netloc)[0] == 403


def test_its_own_pages_may_ask(link: str) -> None:
    own = f"http://{urlsplit(link).netloc}"
    assert ask(link, f"/{TOKEN}/run.json", Origin=own)[0] == 200


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(link: str, method: str) -> None:
    assert ask(link, f"/{TOKEN}/run.json", method)[0] == 405


@pytest.mark.parametrize("path", ["run", "run.json", "static/view.js", "nothing", "../etc/passwd"])
def test_every_answer_says_what_a_page_may_do(link: str, path: str) -> None:
    _, headers, _ = ask(link, f"/{TOKEN}/{path}")
    assert headers["content-security-policy"] == POLICY
    assert "script-src 'self';" in POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers
    kept = "private, max-age=86400, immutable" if path.startswith("static/") else "no-store"
    assert headers.get_all("cache-control") == [kept]


@pytest.mark.parametrize(
    "key",
    [
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        ".lock",
        "..",
        "gone.pt",
        "%00",
        "step-00000007.pt%2f..",
        "linked.pt",
    ],
)
def test_what_was_not_asked_for_is_not_shown(
    link: str, run_folder: Path, tmp_path: Path, key: str
) -> None:
    outside = tmp_path / "secret.pt"
    outside.write_bytes((run_folder / "step-00000007.pt").read_bytes())
    linked = run_folder / "linked.pt"
    linked.symlink_to(outside)
    try:
        for kind in ("checkpoint", "rows", "scan", "verify", "slice", "tensor"):
            status, _, text = ask(link, f"/{TOKEN}/{kind}/{key}.json?name=x")
            assert status in (400, 404), text
            letter = json.loads(text)["error"].splitlines()[0]
            assert letter in ("no checkpoint of that name is shown here", "there is no such page")
    finally:
        linked.unlink()


def test_static_files_are_the_few_there_are(link: str) -> None:
    assert ask(link, f"/{TOKEN}/static/view.js")[0] == 200
    for name in ("__init__.py", "..%2fapp.py", "../app.py", "plotly.js", ""):
        assert ask(link, f"/{TOKEN}/static/{name}")[0] == 404
