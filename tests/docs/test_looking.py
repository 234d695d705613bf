"""Every block of docs/looking.md is run, and its commands are; its pictures are there."""

from __future__ import annotations

import html
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "looking.md").read_text(encoding="utf-8")

GIVEN = """
import torch

import holdfast

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
with holdfast.Run("runs/net", background=False, keep=holdfast.keep.latest(9), model=model) as run:
    for step in (3, 9):
        with torch.no_grad():
            model[1].weight += step
        run.save(step)
holdfast.convert("runs/net@3", "weights.safetensors", part="model")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looking")
    subprocess.run([sys.executable, "-c", GIVEN], cwd=folder, check=True)
    return folder


def test_the_blocks_of_python(place: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    script = "\n".join(
        ["import sys", "import holdfast", *blocks, "assert 'torch' not in sys.modules"]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1 "), "of two layers one moved"
    assert len(lines) == 1 + 4


COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^```console\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("$ ", "").splitlines()
]


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] in ("diff", "stats")])
def test_its_commands(command: list[str], place: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *command],
        cwd=place,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.returncode == (1 if command[0] == "diff" else 0)


def test_one_file(place: Path) -> None:
    (command,) = [each for each in COMMANDS if "--static" in each]
    subprocess.run([sys.executable, "-m", "holdfast", *command], cwd=place, check=True)
    assert (place / "net.html").stat().st_size > 1_000_000, "the charts' library is in it"


def _maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


@pytest.fixture(scope="module")
def made_now(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The texts of which pictures are made, as the commands print them now."""
    folder, maker = tmp_path_factory.mktemp("pictures"), _maker()
    subprocess.run([sys.executable, "-c", maker.SCRIPT], cwd=folder, check=True)
    return {
        kind: maker.as_svg(arguments, maker.on_terminal(arguments, folder))
        for kind, arguments in maker.COMMANDS.items()
    }


@pytest.mark.parametrize("kind", ["list", "show", "diff"])
def test_pictures_show_what_the_commands_print_today(kind: str, made_now: dict[str, str]) -> None:
    """Word for word but for numbers, which are of another training; else: make pictures."""
    kept = words_of((DOCS / "pictures" / f"{kind}.svg").read_text(encoding="utf-8"))
    assert sorted(kept) == sorted(words_of(made_now[kind]))


def words_of(svg: str) -> set[str]:
    """The words in a picture of a terminal, each number a #."""
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    lines = [html.unescape(text).replace("\xa0", " ") for text in texts]
    words = {word for line in lines for word in line.split()}
    plain = {re.sub(r'".*', '"', word) for word in words}  # ids and times
    return {re.sub(r"[0-9][0-9.,]*(e[+-]?[0-9]+)?", "#", word) for word in plain}


def test_pictures_of_the_page_are_of_the_page_as_it_is() -> None:
    """Else: make pictures, and look at them."""
    kept = (DOCS / "pictures" / "pages.txt").read_text(encoding="utf-8").strip()
    assert kept == _maker().pages_digest()


def test_pictures_are_there_and_ask_nobody() -> None:
    names = {path.name for path in (DOCS / "pictures").iterdir()}
    pages = {
        f"{kind}-{scheme}.png" for kind in ("run", "checkpoint") for scheme in ("light", "dark")
    }
    assert names == pages | {"list.svg", "show.svg", "diff.svg", "pages.txt"}
    for path in (DOCS / "pictures").glob("*.svg"):
        assert "@font-face" not in path.read_text(encoding="utf-8")
