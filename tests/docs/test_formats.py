"""docs/formats.md says what the code does: its table has every format, its blocks run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import samples
import torch

import holdfast
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
    read = {*formats._READERS, *formats._ZIP_READERS, *formats._HOLDERS, *formats._SHARED}
    assert told == read


def test_every_kind_that_sniffing_knows_has_a_reader():
    named = set(re.findall(r"``(\w+)``", sniff.kind_of.__doc__ or ""))
    assert named == {*formats._READERS, *formats._ZIP_READERS, *formats._HOLDERS, *formats._SHARED}


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


def cells() -> dict[str, list[str]]:
    """The rows by the name of their format."""
    return {match[1]: row for row in rows() for match in [re.match(r"`(\w+)", row[1])] if match}


#: What a cell of "verified by" begins with, and what verify then says of a file in order.
VERIFIED = {
    "CRC-32 of each member": ("good",),
    "nothing": ("unknown",),
    "CRC-32 inside": ("unknown",),
    "CRC-32 if": ("unknown",),
    "as above": ("unknown",),
    "as torch zip or legacy": ("good", "unknown"),
    "the CRC-32s of torch zips inside": ("unknown",),
    "gzip's own": ("good", "unknown"),
    "as its files": ("unknown",),
}


@pytest.mark.filterwarnings("ignore")  # what the programs say of their own formats
@pytest.mark.parametrize("sample", list(samples.WRITERS))
def test_what_the_table_says_is_what_a_file_of_each_format_shows(sample, tmp_path):
    path = samples.write(sample, tmp_path).path
    with holdfast.open(path) as checkpoint:
        kind = checkpoint.index.format.removeprefix("gzip of ")
        is_packed = kind != checkpoint.index.format
        _, _, read, written, verified, code = cells()["gzip" if is_packed else kind]
        assert not read.startswith("no")
        assert checkpoint.names()
    statuses = next(found for words, found in VERIFIED.items() if verified.startswith(words))
    if sample != "no_crc.pt":
        assert holdfast.verify(path).status in statuses
    report = holdfast.scan(path)
    assert (code == "none") == (not report.pickles and not report.programs)
    assert ("program" in code) == bool(report.programs) or code.startswith("as ")
    names = ("a.pt", "a.safetensors", "a.dcp")
    made = {holdfast.convert(path, tmp_path / name).format_to for name in names}
    assert made == {"torch_zip", "safetensors", "dcp"}
    assert written.startswith("yes") == (kind in {*made, "safetensors_sharded"} and not is_packed)
