"""Zip archives in a scan: what their names tell, and what is no member."""

from __future__ import annotations

import pytest
from scanning import EVIL, members, scan, torch_zip

from holdfast.report.findings import TOO_MANY

PROGRAMS = [
    "a/archive_format",
    "a/archive_version",
    "a/models/model.json",
    "serialized_exported_program.json",
    "a/data/aotinductor/model/kernel.cubin",
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_name_shows_that_an_archive_holds_a_program(name):
    report = scan(torch_zip(extra={name: b"{}"}))
    assert (report.verdict, len(report.programs)) == ("program", 1)


def test_an_archive_that_is_cut_off_is_not_called_ambiguous():
    for end in (-40, -1):
        [problem] = scan(torch_zip()[:end]).problems
        assert problem.what == "this zip archive has no end: the file ends too early"


@pytest.mark.parametrize("nbytes", [1, 2, 3])
def test_a_signature_that_lies_in_two_windows_is_seen(nbytes):
    prefixed = b"\xff" * ((4 << 20) - nbytes) + torch_zip(EVIL)
    assert members(scan(prefixed)) == ["a/data.pkl"]


@pytest.mark.parametrize("count", [10_000, 10_001])
def test_signatures_without_end_are_told(count):
    whats = [problem.what for problem in scan(b"PK\3\4" * count).problems]
    assert (TOO_MANY in whats) == (count > 10_000)
