"""Who may ask, and for what: this machine, this link, reading alone."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from starlette.responses import PlainTextResponse

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Nothing but what this server gives is loaded, and nobody may frame it. The charts set styles on
#: elements, and draw heat maps as images in the page.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Lets requests through that know the token and come from this machine's own page.

    Another site's page may ask this port, and a name that it owns may lead here (DNS rebinding): so
    the names in ``Host`` and ``Origin`` are compared, and the token is in every address.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse in one line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # the server's own start and stop
            return
        refusal = self._refusal(scope)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name for name, _ in given}
                own = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = given + [pair for pair in own if pair[0] not in names]
            await send(message)

        if refusal is not None:
            status, text = refusal
            await PlainTextResponse(text + "\n", status)(scope, receive, with_headers)
            return
        prefix = f"/{self._token}"
        inner = {**scope, "path": scope["path"][len(prefix) :] or "/", "root_path": prefix}
        inner["raw_path"] = inner["path"].encode()
        await self._app(inner, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        if headers.get("host", b"").decode("latin-1") not in self._hosts:
            return 421, "This is a viewer for this machine alone: use the link that it printed."
        origin = headers.get("origin", b"").decode("latin-1")
        if origin and origin not in {f"http://{host}" for host in self._hosts}:
            return 403, "Pages of other sites may not ask here."
        if scope["method"] != "GET":
            return 405, "This viewer changes nothing: GET alone."
        token = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return 403, "The link that holdfast view printed has a token that this one lacks."
        return None
