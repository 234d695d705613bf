"""How long the pages of ``holdfast view`` take in a browser, from the start of the command on.

    python bench/bench_view.py [--runs 5] [--folder DIR]

The files are those of bench_show: one of 16 GiB that is a hole but for its headers, and a state
dict of a hundred thousand tensors. Needs torch to write them, playwright and chromium to look.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

BROWSER = ["--headless", "--no-sandbox", "--disable-gpu"]
SHOW = Path(__file__).with_name("bench_show.py")
#: Each file of bench_show, and its last tensor.
FILES = {
    "16 GiB.pt": "layers.255.weight",
    "100,000 tensors.pt": "model.layers.12499.block.7.weight",
}


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def looked_at(page: Page, path: Path, last: str) -> dict[str, float]:
    """Seconds of each thing, on a server of its own."""
    taken: dict[str, float] = {}
    start = time.perf_counter()
    command = [sys.executable, "-m", "holdfast", "view", str(path), "--no-open"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as server, contextlib.ExitStack() as stack:
        assert server.stdout is not None
        stack.callback(server.terminate)
        link = server.stdout.readline().strip()
        taken["the link is printed"] = time.perf_counter() - start
        opened = time.perf_counter()
        page.goto(link, wait_until="commit")
        page.get_by_role("heading", level=1).wait_for()
        taken["the page's shell"] = time.perf_counter() - opened
        page.locator(".rows .row").nth(3).wait_for()
        taken["its first rows"] = time.perf_counter() - opened
        taken["all, from the command on"] = time.perf_counter() - start
        end = "(rows) => { rows.scrollTop = rows.scrollHeight; }"
        page.locator(".rows").evaluate(end)
        taken["the last rows"] = timed(page.get_by_role("link", name=last).wait_for)
        page.get_by_label("Filter tensors by name").fill(last)
        one = page.locator("#count", has_text="1 tensor")
        taken["one found by its name"] = timed(one.wait_for)
        key = page.evaluate("encodeURIComponent(document.documentElement.dataset.key)")
        started = time.perf_counter()
        page.goto(f"{link}tensor/{key}?name={last}", wait_until="commit")
        page.get_by_role("heading", level=1).wait_for()
        taken["a tensor's page"] = time.perf_counter() - started
        page.locator(".card").first.wait_for()
        taken["its statistics"] = time.perf_counter() - started
        taken["the checkpoint's page again"] = timed(
            lambda: (page.goto(link), page.locator(".rows .row").nth(3).wait_for())
        )
    return taken


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    with (
        tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-view-") as temporary,
        sync_playwright() as playwright,
    ):
        path = "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER)
        page = browser.new_page()
        for name, last in FILES.items():
            file = Path(temporary) / name
            subprocess.run([sys.executable, SHOW, "--make", name, str(file)], check=True)
            looked_at(page, file, last)  # not counted: what is imported is compiled
            found = [looked_at(page, file, last) for _ in range(chosen.runs)]
            for what in found[0]:
                seconds = [each[what] for each in found]
                span = f"({min(seconds):.3f} to {max(seconds):.3f})"
                print(f"{name:20} {what:30} {statistics.median(seconds):6.3f} s  {span}")
        browser.close()


if __name__ == "__main__":
    main()
