"""One fault, done to one saver: ``python -m tests.faults.run kill Run small`` → JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from tests.faults.errors import fail_at_each
from tests.faults.kills import Outcome, Plan, kill_at_each
from tests.faults.mutants import MUTANTS
from tests.faults.power import cut_at_each
from tests.faults.savers import SAVERS
from tests.faults.states import SIZES

FAULTS: dict[str, Callable[[Plan, argparse.Namespace], Outcome]] = {
    "kill": lambda plan, _: kill_at_each(plan),
    "error": lambda plan, _: fail_at_each(plan),
    "power": lambda plan, options: cut_at_each(plan, options.system, options.how),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.faults.run", description=__doc__)
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("saver", choices=SAVERS)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--share", type=int, default=1, help="every so many cases")
    parser.add_argument("--only", help="the one system call that is meant")
    parser.add_argument("--mutant", choices=MUTANTS, help="a commit that is wrong so")
    parser.add_argument("--system", choices=("ext4", "xfs", "btrfs"), default="ext4")
    parser.add_argument("--how", choices=("dropped", "flushed", "copied"), default="dropped")
    parser.add_argument("--first", action="store_true", help="in the first save of all")
    options = parser.parse_args()
    plan = Plan(
        options.saver, options.size, options.share, options.only, options.mutant, options.first
    )
    print(json.dumps(FAULTS[options.fault](plan, options).to_json()))


if __name__ == "__main__":
    main()
