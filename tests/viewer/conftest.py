"""What the tests of the viewer share: one run, served once for each module, and a browser."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from viewing import Watched, make_run, serving

from holdfast.viewer.shown import shown

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu"]
expect.set_options(timeout=30_000)  # the machine may be busy


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("view") / "iris")


@pytest.fixture(scope="module")
def link(run_folder: Path) -> Iterator[str]:
    """Where the run is shown."""
    with serving(shown(run_folder)) as found:
        yield found


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Show other things: ``serve(path)``, ``serve(path, other)``."""
    with contextlib.ExitStack() as stack:
        yield lambda *paths: stack.enter_context(serving(shown(*paths)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("needs chromium (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def watched(
    browser: Browser,
    link: str,
    serve: Callable[..., str],  # which ends behind it: pages ask as long as they are there
) -> Iterator[Watched]:
    """A page; at the end nothing was complained of, and nobody else asked."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    made = Watched(context.new_page())
    yield made
    hacked = made.page.evaluate("window.hacked")
    context.close()
    assert hacked is None, "a name from the file has run"
    assert made.complaints == []
    hosts = {re.sub(r"^(\w+:/*[^/]*).*", r"\1", url) for url in made.requests}
    assert all(host.startswith(("http://127.0.0.1:", "data:", "file:")) for host in hosts), hosts
