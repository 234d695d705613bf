"""The pages in a real browser as they are used: a phone, many rows, a run in training, a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from playwright.sync_api import Browser, expect
from viewing import Watched, make_run

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
    browser: Browser, serve: Callable[..., str], tmp_path: Path
) -> None:
    torch.save({f"layer.{n}.w": torch.tensor(float(n)) for n in range(100_000)}, tmp_path / "a.pt")
    page = browser.new_page()
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
    page.close()


def test_a_run_in_training_shows_its_next_save(
    browser: Browser, serve: Callable[..., str], tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run")
    page = browser.new_page()
    page.goto(serve(folder))
    expect(page.get_by_role("link", name="step-00000007.pt")).to_be_visible()
    model = torch.nn.Linear(2, 2)
    page.get_by_role("link", name="step-00000007.pt").focus()
    with holdfast.Run(folder, background=False, model=model) as run:
        run.save(8, metrics={"loss": 0.001})
    expect(page.get_by_role("link", name="step-00000008.pt")).to_be_visible()
    expect(page.get_by_role("link", name="step-00000007.pt")).to_be_focused()
    page.close()


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
