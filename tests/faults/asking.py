"""How tests ask for a fault: a process of its own, forked into one for each case."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.kills import Outcome

ROOT = Path(__file__).parents[2]


def outcome_of(fault: str, saver: str, size: str, *options: str, seconds: int = 280) -> Outcome:
    """What came of a fault, done to a saver in every case that the options leave."""
    command = [sys.executable, "-m", "tests.faults.run", fault, saver, size, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return Outcome(**json.loads(done.stdout))


def check(outcome: Outcome, *, at_least: int) -> None:
    """Nothing went wrong, in as many cases as there should be, nearly all of which happened."""
    assert outcome.wrong == {}
    assert outcome.happened >= at_least
    assert outcome.happened >= 0.8 * outcome.cases  # threads share work as they will
