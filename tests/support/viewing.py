"""A real run with something of everything, and a server that shows it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from playwright.sync_api import Page
from torch import nn

import holdfast
from holdfast.viewer.app import make_app
from holdfast.viewer.guard import Guard
from holdfast.viewer.serving import listening
from holdfast.viewer.shown import Shown

TOKEN = "a-token-for-tests"
#: A tensor's name that would be a script, were it put into a page as HTML.
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


def make_run(folder: Path) -> Path:
    """Eight saves of which five are there, one pinned, one gone back to, a tensor with NaN."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options: dict[str, Any] = {"background": False, "model": model, "optimizer": optimizer}
    keep = holdfast.keep.latest(3) | holdfast.keep.every(steps=4) | holdfast.keep.best("loss")
    with holdfast.Run(folder, keep=keep, **options) as run:
        run.extra["odd"] = {EVIL: torch.ones(3), "nan": torch.tensor([1.0, float("nan")])}
        for step in range(8):
            loss = model(torch.randn(16, 6)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.save(step, metrics={"loss": loss.item(), EVIL: 1.0})
        run.pin(7)
    return folder


@contextlib.contextmanager
def serving(what: Shown) -> Iterator[str]:
    """The link to a server in a thread of this process."""
    with contextlib.closing(listening(0)) as sock:
        port = sock.getsockname()[1]
        app = Guard(make_app(what), TOKEN, port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/{TOKEN}"
        finally:
            server.should_exit = True
            thread.join()


class Watched:
    """A page of which all is noted that must not be."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda each: self._note(each.type, each.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)
