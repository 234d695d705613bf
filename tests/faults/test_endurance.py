"""The short form of ``make soak``: lives that end at random, and at the end the same state."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.faults.asking import ROOT


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_training_that_is_killed_again_and_again_comes_to_the_same_end(size: str) -> None:
    command = [sys.executable, "-m", "tests.faults.endurance", "12", "20261126", size]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    account = json.loads(done.stdout)
    assert account["wrong"] == []
    assert account["lives"] >= 4
    assert account["killed"] >= 1
    assert account["saves"] >= account["steps"] > 5
