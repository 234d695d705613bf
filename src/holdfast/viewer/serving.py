"""Serve a viewer on this machine alone, and open the browser."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from holdfast.errors import UsageError
from holdfast.viewer.app import make_app
from holdfast.viewer.guard import Guard
from holdfast.viewer.shown import Shown

HOST = "127.0.0.1"


def serve(shown: Shown, *, port: int = 0, opens: bool = True, say: Callable[[str], None]) -> None:
    """Show it until the process is interrupted; ``say`` is called with the link.

    ``port`` 0 takes any that is free.

    Raises:
        UsageError: the port is taken.
    """
    with contextlib.closing(listening(port)) as sock:
        taken = sock.getsockname()[1]
        token = secrets.token_urlsafe(16)
        app = Guard(make_app(shown), token, taken)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        link = f"http://{HOST}:{taken}/{token}/"
        say(link)
        if opens:  # beside the server: one in the terminal ends before open() returns
            threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[sock])


def listening(port: int) -> socket.socket:
    """A socket of this machine alone, already listening: the link works once it is printed."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise UsageError(
            "the viewer cannot listen there",
            wanted="a port that is free",
            found=f"{port}: {error.strerror}",
            cure="Leave out --port: any that is free is taken.",
        ) from error
    return sock
