"""What the tests of the viewer share: one run, served once for each module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from viewing import make_run, serving

from holdfast.viewer.shown import shown


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
