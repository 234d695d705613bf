"""When the power goes, at any stage, what was acknowledged is there."""

from __future__ import annotations

import pytest
from tests.faults.asking import check, outcome_of
from tests.faults.power import can_mount

pytestmark = pytest.mark.skipif(not can_mount("ext4"), reason="needs root and mkfs.ext4")


@pytest.mark.parametrize("how", ["dropped", "flushed"])
@pytest.mark.parametrize("saver", ["Run, pruning", "save", "convert"])
def test_ext4(saver: str, how: str) -> None:
    check(outcome_of("power", saver, "small", "--how", how), at_least=6)


@pytest.mark.parametrize("saver", ["Run, unpin", "convert, shards"])
def test_ext4_some_stages(saver: str) -> None:
    check(outcome_of("power", saver, "small", "--share", "4"), at_least=5)


def test_ext4_in_the_first_save_of_all() -> None:
    check(outcome_of("power", "Run", "small", "--first", "--share", "3"), at_least=5)


@pytest.mark.parametrize("how", ["dropped", "flushed"])
def test_ext4_past_the_page_cache(how: str) -> None:
    check(outcome_of("power", "Run, background", "large", "--how", how, "--share", "4"), at_least=3)


def test_ext4_as_the_disk_is_at_the_moment() -> None:
    check(outcome_of("power", "Run", "small", "--how", "copied", "--share", "2"), at_least=5)
