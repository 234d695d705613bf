"""``make pictures``: what the commands print and what the page shows, of a real run, as pictures.

It trains for a moment in a folder of its own, asks holdfast as anybody would, and writes into
docs/pictures: SVGs of ``list``, ``show`` and ``diff`` on a terminal, PNGs of the page.
"""

from __future__ import annotations

import hashlib
import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
SCRIPT = """
import torch
from torch import nn

import holdfast

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
inputs = torch.randn(512, 64)
labels = (inputs[:, :10]).argmax(1)
keep = holdfast.keep.latest(3) | holdfast.keep.every(steps=20) | holdfast.keep.best("loss")
with holdfast.Run("runs/digits", model=model, optimizer=optimizer, keep=keep) as run:
    for step in run.steps(100):
        batch = torch.randint(512, (64,))
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = (model(inputs).argmax(1) == labels).float().mean()
        run.save(metrics={"loss": loss.detach(), "accuracy": accuracy})
    run.pin(39)
"""
COMMANDS = {
    "list": ["list", "runs/digits"],
    "show": ["show", "runs/digits", "model"],
    "diff": ["diff", "runs/digits@39", "runs/digits", "--part", "model"],
}
PAGES = {"run": "run", "checkpoint": "checkpoint/step-00000099.pt"}
BROWSER = ["--headless", "--no-sandbox", "--disable-gpu"]


def on_terminal(arguments: list[str], folder: Path) -> str:
    """What a command prints on a terminal, with its colours."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "holdfast", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=theirs, close_fds=True) as process:
        os.close(theirs)
        found = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            found += piece
        process.wait()
    os.close(ours)
    return found.decode().replace("\r\n", "\n")


def as_svg(arguments: list[str], text: str) -> str:
    """A terminal of just its size."""
    lines = [Text.from_ansi(line) for line in text.rstrip("\n").split("\n")]
    width = max(line.cell_len for line in lines) + 1
    console = Console(record=True, width=width, file=io.StringIO())
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    svg = console.export_svg(title=f"holdfast {' '.join(arguments)}", unique_id="holdfast")
    return re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # fonts of another site


def main() -> None:
    """Make all of them."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, check=True)
        for kind, arguments in COMMANDS.items():
            text = on_terminal(arguments, folder)
            (PICTURES / f"{kind}.svg").write_text(as_svg(arguments, text), encoding="utf-8")
        command = [sys.executable, "-m", "holdfast", "view", "runs/digits", "--no-open"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            take(server.stdout.readline().strip())
            server.terminate()
    (PICTURES / "pages.txt").write_text(f"{pages_digest()}\n", encoding="utf-8")


def pages_digest() -> str:
    """What the page is drawn by, as one number: pictures of another page are out of date."""
    made = hashlib.sha256()
    viewer = HERE.parent / "src" / "holdfast" / "viewer"
    for path in sorted([*viewer.glob("static/*"), *viewer.glob("templates/*")]):
        made.update(path.read_bytes())
    return made.hexdigest()


def take(link: str) -> None:
    """Take the pages, light and dark."""
    with sync_playwright() as playwright:
        path = "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER)
        for scheme in ("light", "dark"):
            size = {"width": 1100, "height": 760}
            page = browser.new_page(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
            for kind, address in PAGES.items():
                page.goto(link + address)
                page.locator(".main-svg").first.wait_for()
                page.wait_for_timeout(500)  # the chart fades in
                page.screenshot(path=PICTURES / f"{kind}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
