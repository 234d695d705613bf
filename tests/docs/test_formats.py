"""docs/formats.md says what the code does: its table has every format, its blocks run."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from holdfast import formats
from holdfast.formats import sniff
from holdfast.formats.safetensors.read import RECORD
from holdfast.formats.safetensors.seal import CRCS, SEAL

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "formats.md").read_text()


def rows() -> list[list[str]]:
    """The cells of the first table, without its head."""
    table = re.search(r"^\| format .*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
    assert table is not None
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table[0].split("\n")[2:-2]]


def test_every_format_has_its_row():
    told = {match[1] for row in rows() for match in [re.match(r"`(\w+)", row[1])] if match}
    read = {*formats._READERS, *formats._ZIP_READERS, *formats._HOLDERS}
    assert told == read


def test_every_kind_that_sniffing_knows_has_a_reader():
    named = set(re.findall(r"``(\w+)``", sniff.kind_of.__doc__ or ""))
    assert named == {*formats._READERS, *formats._ZIP_READERS, *formats._HOLDERS}


def test_the_keys_it_names_are_those_written():
    assert all(f"`{key}`" in TEXT for key in (CRCS, SEAL, RECORD))


def test_its_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(2, 2), "model.pth")
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/formats.md", "exec"), {})
    assert (tmp_path / "model.safetensors").exists()


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    assert all((ROOT / "docs" / link).exists() for link in links)


def test_its_anchors_are_headings():
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    anchors = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert anchors <= headings
