"""Every seed, and everything that fuzzing found worth keeping, once more."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from tests.fuzz.make_seeds import seeds
from tests.fuzz.target import FOLDER, PICKLE, look

pytestmark = pytest.mark.filterwarnings("ignore")  # what the writers of seeds say of their formats

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


@pytest.fixture(scope="module")
def all_seeds() -> dict[str, bytes]:
    return seeds()


def test_the_seeds_are_of_every_kind(all_seeds):
    assert len(all_seeds) > 15
    assert any(data.startswith(PICKLE) for data in all_seeds.values())
    assert any(data.startswith(FOLDER) for data in all_seeds.values())


def test_the_seeds(all_seeds):
    for data in all_seeds.values():
        look(data)


def test_what_fuzzing_kept():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in CORPUS:
        look(path.read_bytes())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


def test_what_is_kept_is_small():
    assert sum(path.stat().st_size for path in CORPUS) < 2 << 20
