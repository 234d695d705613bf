"""The pages in a real browser: every one opened, its numbers read, nothing else asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damaging import flip_first_byte
from playwright.sync_api import Browser, Page, expect
from viewing import EVIL, Watched

import holdfast


def number_at(page: Page, label: str) -> float:
    """What the card of that label says."""
    card = page.locator(".card", has=page.get_by_text(label, exact=True))
    return float(card.locator(".value").inner_text().replace(",", ""))


def test_from_the_run_to_a_tensor_and_its_history(
    watched: Watched, link: str, run_folder: Path
) -> None:
    page = watched.page
    page.goto(f"{link}/")
    expect(page).to_have_url(f"{link}/run")
    expect(page.get_by_role("heading", level=1)).to_have_text(str(run_folder))
    expect(page.get_by_role("img", name="loss over")).to_be_visible()
    expect(page.locator(".main-svg").first).to_be_visible()
    page.get_by_role("link", name="step-00000007.pt").click()
    expect(page.locator(".rows a").first).to_be_visible()
    expect(page.get_by_role("img", name="Where the bytes are")).to_be_visible()
    expect(page.get_by_text("scan: fine")).to_be_visible()
    page.get_by_role("button", name="Compare all").click()
    expect(page.get_by_text("verify: fine")).to_be_visible()
    page.get_by_label("Filter tensors by name").fill("0.weight")
    page.locator(".rows").get_by_role("link", name="model.0.weight").click()
    expect(page.get_by_role("img", name="Histogram of model.0.weight")).to_be_visible()
    with holdfast.open(run_folder / "step-00000007.pt") as checkpoint:
        array = checkpoint.array("model.0.weight").astype(np.float64)
    for label, wanted in (
        ("least", array.min()),
        ("largest", array.max()),
        ("mean", array.mean()),
        ("standard deviation", array.std()),
        ("norm", np.linalg.norm(array)),
    ):
        assert number_at(page, label) == pytest.approx(wanted, rel=1e-3), label
    expect(page.get_by_role("img", name="Heat map of model.0.weight")).to_be_visible()
    page.get_by_role("button", name="Read it in every checkpoint").click()
    expect(page.get_by_role("img", name="norm over the run")).to_be_visible()
    rows = page.get_by_role("region", name="Over the run").locator("tbody tr")
    expect(rows).to_have_count(5)
    cells = rows.nth(4).locator("td").all_inner_texts()
    with holdfast.open(run_folder / "step-00000006.pt") as checkpoint:
        before = checkpoint.array("model.0.weight").astype(np.float64)
    change = np.linalg.norm(array - before) / np.linalg.norm(before)
    wanted = (np.linalg.norm(array), array.mean(), array.std(), change, change)
    assert [float(text) for text in cells[2:7]] == pytest.approx(wanted, rel=1e-3)
    elsewhere = page.get_by_role("region", name="The same elsewhere")
    expect(elsewhere.get_by_label("Command line").first).to_contain_text("holdfast show")


def test_two_checkpoints_with_histograms_beside_each_other(
    watched: Watched, link: str, run_folder: Path
) -> None:
    page = watched.page
    page.goto(f"{link}/run")
    page.get_by_label("Compare", exact=True).select_option("step-00000006.pt")
    page.get_by_label("with", exact=True).select_option("step-00000007.pt")
    page.get_by_role("button", name="Show what changed").click()
    page.wait_for_url("**/diff?*")
    expect(page.get_by_role("heading", level=1)).to_contain_text("changed")
    expect(page.get_by_role("img", name="Relative change by layer")).to_be_visible()
    page.get_by_title("Both histograms of model.0.weight").click()
    for side in ("first", "second"):
        chart = page.get_by_role("img", name=f"Histogram of model.0.weight in the {side}")
        expect(chart).to_be_visible()
    row = page.locator("tr", has=page.get_by_title("Both histograms of model.0.weight"))
    relative, cosine, largest, changed = row.locator("td").all_inner_texts()[1:5]
    a, b = (weight_of(run_folder / f"step-0000000{step}.pt") for step in (6, 7))
    norms = np.linalg.norm(a), np.linalg.norm(b)
    assert float(relative) == pytest.approx(np.linalg.norm(a - b) / norms[0], rel=1e-3)
    assert float(cosine) == pytest.approx(np.vdot(a, b) / (norms[0] * norms[1]), abs=1e-6)
    assert float(largest) == pytest.approx(np.abs(a - b).max(), rel=1e-3)
    assert changed == f"{100 * (a != b).mean():.1f}%"


def weight_of(path: Path) -> Any:
    with holdfast.open(path) as checkpoint:
        return checkpoint.array("model.0.weight").astype(np.float64)


def test_names_from_files_are_text(watched: Watched, link: str, run_folder: Path) -> None:
    page = watched.page
    page.goto(f"{link}/run")
    expect(page.get_by_role("columnheader", name=EVIL)).to_be_visible()
    row = page.get_by_role("row", name="step-00000007.pt")
    with holdfast.open(run_folder / "step-00000007.pt") as checkpoint:
        assert checkpoint.record is not None
        loss = checkpoint.record.metrics["loss"]
    assert float(row.locator("td").nth(2).inner_text()) == pytest.approx(loss, rel=1e-3)
    page.get_by_label("Show").select_option(EVIL)
    expect(page.locator(".main-svg .ytitle")).to_have_text(EVIL)
    page.goto(f"{link}/checkpoint/step-00000007.pt")
    page.get_by_label("Filter tensors by name").fill("<script>")
    expect(page.locator("#count")).to_have_text("1 tensor")
    page.locator(".rows").get_by_role("link", name="extra.odd.").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"extra.odd.{EVIL}")
    expect(page.get_by_role("img", name="Histogram of extra.odd")).to_be_visible()
    expect(page.get_by_text("all 1", exact=True)).to_be_visible()


def test_names_with_controls_and_tensors_without_a_picture(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    tree = {"r\rc\0": torch.ones(3), "none": torch.empty(0, 3)}
    torch.save(tree, tmp_path / "plain.pt")
    (tmp_path / "plain.pt").rename(tmp_path / "a\r.pt")  # which torch's writer does not name
    page = watched.page
    page.goto(serve(tmp_path / "a\r.pt"))
    page.locator(".rows a").first.click()
    expect(page.get_by_role("img", name="Histogram of r")).to_be_visible()
    page.go_back()
    page.get_by_role("link", name="none").click()
    expect(page.get_by_text("Nothing to draw: shape [0, 3]")).to_be_visible()


def test_names_that_are_no_text_and_names_that_turn_it_around(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save({"\ud800x": torch.ones(3), "\u202eevil": torch.ones(4)}, tmp_path / "plain.pt")
    (tmp_path / "plain.pt").rename(folder / "bad\udcff.pt")
    torch.save({"x": torch.ones(3)}, folder / "a.pt")
    page = watched.page
    page.goto(serve(folder))
    expect(page.get_by_role("link", name="a.pt")).to_be_visible()
    page.get_by_role("link", name=r"bad\udcff.pt").click()
    expect(page.locator(".rows").get_by_text(r"\u202eevil")).to_be_visible()
    page.locator(".rows").get_by_text(r"\ud800x").click()
    expect(page.get_by_text("all 1", exact=True)).to_be_visible()


def test_rows_that_are_there_stay(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    """A click that begins on a row ends on it, whatever is drawn meanwhile."""
    torch.save({f"t{n}": torch.ones(3) for n in range(300)}, tmp_path / "a.pt")
    page = watched.page
    page.goto(serve(tmp_path / "a.pt"))
    link = page.locator(".rows").get_by_text("t1", exact=True)
    expect(link).to_be_visible()
    row = link.element_handle()
    assert row is not None
    page.locator(".rows").evaluate("(rows) => rows.dispatchEvent(new Event('scroll'))")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert row.evaluate("(row) => row.isConnected")
    page.locator(".rows").evaluate("(rows) => { rows.scrollTop = 3000; }")
    expect(page.locator(".rows").get_by_text("t120", exact=True)).to_be_visible()


def test_a_file_without_checksums_is_not_called_fine(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    legacy = {"_use_new_zipfile_serialization": False}
    torch.save({"x": torch.ones(3)}, tmp_path / "old.pt", **legacy)
    page = watched.page
    page.goto(serve(tmp_path / "old.pt"))
    page.get_by_role("button", name="Compare all").click()
    expect(page.get_by_text("verify: no checksums for all of it")).to_be_visible()


def test_a_damaged_tensor_is_marked(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    holdfast.save({"x": torch.ones(1000)}, tmp_path / "a.pt")
    flip_first_byte(tmp_path / "a.pt")
    page = watched.page
    page.goto(f"{serve(tmp_path / 'a.pt')}/tensor/a.pt?name=x")
    expect(page.locator(".mark.bad")).to_contain_text("not those that were saved")


def test_a_page_of_what_is_wrong(
    browser: Browser, serve: Callable[..., str], tmp_path: Path
) -> None:
    torch.save({"x": torch.ones(100)}, tmp_path / "a.pt")
    link = serve(tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[:300])
    page = browser.new_page()
    page.goto(f"{link}/")
    expect(page.get_by_role("alert")).to_contain_text("a.pt")
    page.goto(f"{link}/checkpoint/other.pt")
    expect(page.get_by_role("alert")).to_contain_text("no checkpoint of that name is shown here")
    page.goto(f"{link}/nothing")
    expect(page.get_by_role("alert")).to_contain_text("there is no such page")
    page.close()


class Calls:
    """What would run a command, were it unpickled."""

    def __reduce__(self) -> Any:
        return print, ("it ran",)


def test_a_hostile_file_is_shown_and_not_run(
    watched: Watched, serve: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.ones(3), "odd": Calls()}, tmp_path / "a.pt")
    page = watched.page
    page.goto(serve(tmp_path / "a.pt"))
    expect(page.get_by_text("scan: look")).to_be_visible()
    expect(page.get_by_role("region", name="Objects").get_by_text("builtins.print")).to_be_visible()
    assert "it ran" not in capfd.readouterr().out


def test_a_file_that_goes_while_it_is_looked_at(
    browser: Browser, serve: Callable[..., str], tmp_path: Path
) -> None:
    torch.save({"x": torch.ones(3)}, tmp_path / "a.pt")
    page = browser.new_page()
    page.goto(serve(tmp_path / "a.pt"))
    expect(page.get_by_role("link", name="x", exact=True)).to_be_visible()
    (tmp_path / "a.pt").unlink()
    page.get_by_label("Filter tensors by name").fill("x")
    expect(page.get_by_role("alert").first).to_contain_text("a.pt")
    page.close()


def test_the_keyboard_is_enough(watched: Watched, link: str) -> None:
    page = watched.page
    page.goto(f"{link}/checkpoint/step-00000007.pt")
    expect(page.locator(".rows a").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    stops = tabbed(page, ".row[aria-rowindex]")
    assert stops < 15, "the table is one stop, not one for each row"
    expect(page.locator('[aria-rowindex="1"] button')).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator('[aria-rowindex="1"] button')).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Enter")
    expect(page.locator('[aria-rowindex="1"] button')).to_have_attribute("aria-expanded", "true")
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    expect(page.locator('[aria-rowindex="3"] a')).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Statistics")).to_be_visible()
    page.goto(f"{link}/run")
    expect(page.get_by_label("Compare", exact=True)).to_be_visible()
    tabbed(page, "#side-0")
    page.keyboard.press("ArrowUp")
    tabbed(page, "#compare")
    page.keyboard.press("Enter")
    page.wait_for_url("**/diff?a=step-00000005.pt&b=step-00000007.pt")
    expect(page.locator("button.quiet").first).to_be_visible()
    tabbed(page, "button.quiet")
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name="in the second")).to_be_visible()


def tabbed(page: Page, wanted: str) -> int:
    """Press Tab until what has the focus lies in such an element; how often."""
    for times in range(60):
        if page.evaluate("(css) => document.activeElement.closest(css) !== null", wanted):
            return times
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not lead to {wanted}")


#: The word on a button goes after a second and a half, which a machine at work may not look at.
WORDS_STAY = """{
  const real = window.setTimeout;
  window.setTimeout = (call, ms, ...more) => ms === 1500 ? 0 : real(call, ms, ...more);
}"""


def test_lines_are_copied(watched: Watched, link: str) -> None:
    page = watched.page
    page.add_init_script(WORDS_STAY)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{link}/run")
    page.get_by_role("button", name="Copy: Command line").first.click()
    expect(page.get_by_text("Copied")).to_be_visible()
    text = page.get_by_label("Command line", exact=True).first.inner_text()
    assert text.startswith("holdfast list ")
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_where_nothing_may_be_copied_it_is_selected(watched: Watched, link: str) -> None:
    page = watched.page
    page.add_init_script(WORDS_STAY)
    page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    page.goto(f"{link}/run")
    page.get_by_role("button", name="Copy: Command line").first.click()
    expect(page.get_by_text("Selected")).to_be_visible()
    chosen = page.evaluate("getSelection().toString()")
    assert chosen == page.get_by_label("Command line", exact=True).first.inner_text()


NUMBERS = {
    "12300.2": "12300",
    "98760.4": "98760",
    "12345678901.5": "1.235e+10",
    "12345678901": "12,345,678,901",
    "0.00012345": "1.234e-4",
    "0.5": "0.5",
    "100": "100",
    "-2500.05": "-2500.1",
    "1e300": "1.000e+300",
    "0": "0",
    "null": "",
    '"NaN"': "NaN",
}


def test_numbers_are_what_they_are(watched: Watched, link: str) -> None:
    page = watched.page
    page.goto(f"{link}/run")
    for value, text in NUMBERS.items():
        assert page.evaluate(f"number({value})") == text


def test_light_and_dark(watched: Watched, link: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme="dark")
    page.goto(f"{link}/run")
    back = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(back)
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(back) == "rgb(255, 255, 255)" != dark
    page.reload()
    assert page.evaluate(back) == "rgb(255, 255, 255)", "it is remembered"


FIRST = """
new MutationObserver(() => {
  if (document.body) window.first ??= document.documentElement.dataset.theme ?? "none";
}).observe(document, { childList: true, subtree: true });
"""
NO_STORE = """
Object.defineProperty(window, "localStorage", { get() { throw new Error("not allowed"); } });
"""


def test_dark_from_the_first_moment_on_and_without_a_store(watched: Watched, link: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme="dark")
    page.add_init_script(FIRST + NO_STORE)
    page.goto(f"{link}/run")
    assert page.evaluate("window.first") == "dark"
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def until(page: Page, condition: str) -> None:
    """Wait until that holds; the page's policy forbids what Playwright has for it."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def test_the_slice_asked_for_last_is_the_one_in_sight(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    torch.save({"x": torch.arange(12.0).reshape(3, 2, 2)}, tmp_path / "a.pt")
    page, held = watched.page, []
    page.route("**/slice/**index=1", lambda route: held.append(route))
    page.goto(f"{serve(tmp_path / 'a.pt')}/tensor/a.pt?name=x")
    first = "document.querySelector('[aria-label^=\"Heat map\"]')?.data?.[0].z[0][0]"
    until(page, f"{first} === 0")
    for place in ("1", "2"):
        page.get_by_label("Place along axis 0").fill(place)
        page.keyboard.press("Tab")
    until(page, f"{first} === 8")
    (late,) = held
    with page.expect_response("**/slice/**index=1"):
        late.continue_()
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert page.evaluate(first) == 8


@pytest.mark.parametrize(
    ("a", "b", "head", "note"),
    [
        ({"l.x": torch.zeros(4)}, {"l.x": torch.ones(4)}, "1 tensor changed", "was all zero"),
        ({"l.x": torch.zeros(4)}, {"l.x": torch.ones(5)}, "1 tensor changed", "in the table alone"),
        ({}, {"l.x": torch.ones(4)}, "1 tensor only in one of them", None),
        ({"n": 1}, {"n": 2}, "1 plain value changed", None),
        ({"n": 1}, {"n": 1}, "They hold the same", None),
    ],
)
def test_what_the_page_of_two_says_first(
    watched: Watched,
    serve: Callable[..., str],
    tmp_path: Path,
    a: Any,
    b: Any,
    head: str,
    note: Any,
) -> None:
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    page = watched.page
    page.goto(serve(tmp_path / "a.pt", tmp_path / "b.pt"))
    expect(page.get_by_role("heading", level=1)).to_have_text(head)
    if note is not None:
        expect(page.get_by_text(note)).to_be_visible()
    if note == "was all zero":
        expect(page.locator(".bartext", has_text="∞")).to_be_visible()


def test_a_history_has_a_line_for_each_branch(
    watched: Watched, serve: Callable[..., str], tmp_path: Path
) -> None:
    model, keep = torch.nn.Linear(1, 1), holdfast.keep.latest(9)
    with holdfast.Run(tmp_path / "run", background=False, keep=keep, model=model) as run:
        for step in (1, 3):
            run.save(step)
        run.resume(1)
        torch.nn.init.constant_(model.weight, 7.0)
        run.save(3)
    page = watched.page
    page.goto(f"{serve(tmp_path / 'run')}/tensor/step-00000001.pt?name=model.weight")
    page.get_by_role("button", name="Read it in every checkpoint").click()
    charts = page.get_by_role("img", name="relative change per step over the run")
    expect(charts).to_be_visible()
    expect(page.get_by_role("region", name="The history elsewhere")).to_be_visible()
    until(page, "document.querySelector('[aria-label^=norm]').data?.length === 2")
