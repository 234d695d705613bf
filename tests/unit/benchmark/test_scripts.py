"""The scripts that turn a result into text for the docs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def saved(result, tmp_path) -> Path:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result.to_json()))
    return path


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_markdown(saved) -> None:
    lines = run("to_markdown.py", saved).stdout.splitlines()
    assert lines[0] == "A CPU, 2 cores, 8.0 GiB memory, ext4  "
    start = lines.index("**large: 16 tensors, 1.0 GiB, limits of this machine**")
    assert lines[start + 2 : start + 5] == [
        "|  | time | GiB/s |",
        "| --- | --: | --: |",
        "| plain direct write | 0.36 s (0.18 to 0.72) | 2.78 |",
    ]


def test_markdown_goes_between_the_markers_of_the_docs(saved, tmp_path) -> None:
    docs = tmp_path / "benchmarks.md"
    docs.write_text((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"))
    before = docs.read_text().partition("<!-- begin")[0]
    for _ in range(2):
        assert run("to_markdown.py", saved, "--into", docs).returncode == 0
    text = docs.read_text()
    assert text.startswith(before)
    assert text.count("What it must reach") == 1
    assert "## What it misses, and why" in text.partition("<!-- end")[2]


def test_docs_without_markers_are_left_alone(saved, tmp_path) -> None:
    docs = tmp_path / "other.md"
    docs.write_text("mine")
    done = run("to_markdown.py", saved, "--into", docs)
    assert (done.returncode, docs.read_text()) == (1, "mine")
    assert done.stderr.startswith("there are no markers")


def test_the_picture_has_a_bar_for_each_way(saved, tmp_path) -> None:
    picture = tmp_path / "a.svg"
    done = run("plot.py", saved, picture)
    assert done.returncode == 0, done.stderr
    root = ElementTree.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    widths = [float(bar.get("width")) for bar in root.iter(f"{space}rect")]
    assert len(widths) == 5, "the plain write and four ways"
    assert max(widths) == pytest.approx(440)
    texts = [each.text for each in root.iter(f"{space}text")]
    assert texts[0] == "large: 16 tensors, 1.0 GiB"
    assert texts[1:5] == ["plain direct write", "0.36 s", "holdfast.save_state", "0.40 s"]
