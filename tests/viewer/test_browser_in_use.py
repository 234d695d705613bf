"""The pages in a real browser as they are used: a phone, many rows, a run in training, a file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from damaging import flip_first_byte
from playwright.sync_api import expect
from viewing import Watched

import holdfast
from holdfast.cli.app import cli


@pytest.mark.parametrize("kind", ["run", "checkpoint", "tensor", "diff"])
def test_a_phone_shows_no_more_than_its_width(watched: Watched, link: str, kind: str) -> None:
    page = watched.page
    page.set_viewport_size({"width": 390, "height": 844})
    key = "step-00000007.pt"
    addresses = {
        "run": "run",
        "checkpoint": f"checkpoint/{key}",
        "tensor": f"tensor/{key}?name=model.0.weight",
        "diff": f"diff?a=step-00000006.pt&b={key}",
    }
    page.goto(f"{link}/{addresses[kind]}")
    expect(page.locator(".main-svg").first).to_be_visible()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_a_hundred_thousand_rows_are_a_few_in_the_page(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    torch.save({f"layer.{n}.w": torch.tensor(float(n)) for n in range(100_000)}, tmp_path / "a.pt")
    page = watched.page
    page.goto(serve(tmp_path / "a.pt"))
    expect(page.locator("#count")).to_have_text("100,000 tensors")
    assert page.locator(".row").count() < 60
    page.locator(".rows").evaluate("(rows) => { rows.scrollTop = rows.scrollHeight; }")
    expect(page.get_by_role("link", name="layer.99999.w")).to_be_visible()
    assert page.locator(".row").count() < 60
    page.locator(".rows").evaluate("(rows) => { rows.scrollTop = 0; }")
    page.get_by_role("button", name="layer", exact=True).click()
    expect(page.get_by_role("button", name="layer", exact=True)).to_be_focused()
    expect(page.locator(".rows .row")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="layer.0.w")).to_be_visible()
    page.get_by_label("Filter tensors by name").fill("layer.4242.")
    expect(page.locator("#count")).to_have_text("1 tensor")


def test_a_run_of_many_checkpoints_shows_the_newest_first(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    model, keep = torch.nn.Linear(1, 1), holdfast.keep.latest(1000)
    with holdfast.Run(tmp_path / "run", background=False, keep=keep, model=model) as run:
        for step in range(230):
            run.save(step)
    page = watched.page
    page.goto(serve(tmp_path / "run"))
    rows = page.get_by_role("region", name="newest first").locator("tbody tr")
    expect(rows).to_have_count(200)
    expect(rows.first).to_contain_text("step-00000229.pt")
    page.get_by_role("button", name="Show 30 older checkpoints").click()
    expect(rows).to_have_count(230)


def test_a_run_is_verified_from_its_page(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    with holdfast.Run(tmp_path / "run", background=False, model=torch.nn.Linear(9, 9)) as run:
        for step in (1, 2):
            run.save(step)
    file = tmp_path / "run" / "step-00000001.pt"
    flip_first_byte(file)
    page = watched.page
    page.goto(serve(tmp_path / "run"))
    page.get_by_role("button", name="Compare all").click()
    expect(page.get_by_text("1 checkpoint damaged")).to_be_visible()
    expect(page.locator(".mark.bad")).to_have_text("damaged")


def test_what_comes_later_moves_nobody(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    torch.save({f"x{n}": torch.tensor(float(n)) for n in range(500)}, tmp_path / "a.pt")
    page, held = watched.page, []
    page.route("**/checkpoint/a.pt.json", lambda route: held.append(route))
    page.goto(serve(tmp_path / "a.pt"))
    expect(page.locator(".rows .row").first).to_be_visible()
    page.get_by_label("Filter tensors by name").focus()
    page.locator(".rows").evaluate("(rows) => { rows.scrollTop = rows.scrollHeight; }")
    expect(page.get_by_role("link", name="x499")).to_be_visible()
    (late,) = held
    late.continue_()
    expect(page.get_by_role("heading", name="Where the bytes are")).to_be_visible()
    expect(page.get_by_role("link", name="x499")).to_be_visible()
    assert page.locator(".rows").evaluate("(rows) => rows.scrollTop") > 10_000
    expect(page.get_by_label("Filter tensors by name")).to_be_focused()


TRAINING = """
import sys, time
import torch, holdfast
model = torch.nn.Linear(2, 2)
with holdfast.Run(sys.argv[1], model=model) as run:
    run.resume()
    print("ready", flush=True)
    for step in map(int, sys.stdin):
        run.save(step, metrics={"loss": 1 / step}, wait=True)
"""


def test_a_run_in_training_shows_each_save_by_itself(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    """Within two seconds: bench_view.py says how long it takes; here machines may be busy."""
    folder = tmp_path / "run"
    with holdfast.Run(folder, background=False, model=torch.nn.Linear(2, 2)) as run:
        run.save(7, metrics={"loss": 1.0})
    page = watched.page
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", TRAINING, folder], **pipes) as training:
        assert training.stdin is not None
        assert training.stdout is not None
        assert training.stdout.readline() == "ready\n"
        page.goto(serve(folder))
        page.get_by_role("link", name="step-00000007.pt").focus()
        for step in (8, 9):
            training.stdin.write(f"{step}\n")
            training.stdin.flush()
            link = page.get_by_role("link", name=f"step-0000000{step}.pt")
            expect(link).to_be_visible(timeout=10_000)
            expect(page.get_by_role("link", name="step-00000007.pt")).to_be_focused()
        training.stdin.close()


@pytest.mark.parametrize("kind", ["run", "checkpoint", "diff"])
def test_one_file_to_send_to_someone(
    watched: Watched, run_folder: Path, tmp_path: Path, kind: str
) -> None:
    paths = {
        "run": [str(run_folder)],
        "checkpoint": [str(run_folder / "step-00000007.pt")],
        "diff": [f"{run_folder}@6", f"{run_folder}@7"],
    }[kind]
    out = tmp_path / "out.html"
    done: Any = CliRunner().invoke(cli, ["view", *paths, "--static", str(out)])
    assert done.exit_code == 0, done.output
    page = watched.page
    page.goto(out.as_uri())
    expect(page.locator(".main-svg").first).to_be_visible()
    if kind == "checkpoint":
        page.get_by_label("Filter tensors by name").fill("0.weight")
        expect(page.locator(".rows").get_by_text("model.0.weight", exact=True)).to_be_visible()
        page.get_by_label("Filter tensors by name").fill("")
        expect(page.locator(".rows").get_by_text("▾ model", exact=True)).to_be_visible()
        page.keyboard.press("Tab")  # the order of the rows
        page.keyboard.press("Tab")
        expect(page.locator(".rows")).to_be_focused()
    if kind == "diff":
        page.get_by_title("Both histograms of model.0.weight").click()
        expect(page.get_by_role("img", name="model.0.weight in the second")).to_be_visible()
    assert watched.requests == [out.as_uri()]
    assert page.locator("a[href]:not(.skip)").count() == 0
