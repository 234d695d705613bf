"""One fault, done to one saver: ``python -m tests.faults.run kill Run small`` → JSON.

``python -m tests.faults.run serve`` does one after the other: for a line of JSON with options and
environment the answer is a line with how it ended and what it said. Each is a process of its own,
forked from one that has imported all there is, which takes as long as ten faults.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

import torch
from tests.faults.acting import AFTER
from tests.faults.errors import fail_at_each
from tests.faults.kills import Outcome, Plan, kill_at_each
from tests.faults.mutants import MUTANTS
from tests.faults.power import cut_at_each
from tests.faults.savers import SAVERS
from tests.faults.states import MEANWHILE, SIZES, digest_of

FAULTS: dict[str, Callable[[Plan, argparse.Namespace], Outcome]] = {
    "kill": lambda plan, _: kill_at_each(plan),
    "error": lambda plan, _: fail_at_each(plan),
    "power": lambda plan, options: cut_at_each(plan, options.system, options.how),
}


def main(given: Sequence[str] | None = None) -> None:
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
    options = parser.parse_args(given)
    for step in (*range(AFTER + 2), MEANWHILE):  # once, not in each process that is forked
        digest_of(step, options.size)
    plan = Plan(
        options.saver, options.size, options.share, options.only, options.mutant, options.first
    )
    print(json.dumps(FAULTS[options.fault](plan, options).to_json()))


def serve() -> None:
    torch.set_num_threads(1)  # a fork has none of the threads that torch would wait for
    for line in sys.stdin:
        given, environment = json.loads(line)
        with tempfile.TemporaryFile("w+", errors="replace") as said:
            pid = os.fork()
            if pid == 0:
                _do(given, environment, said.fileno())
            _, status = os.waitpid(pid, 0)
            said.seek(0)
            print(json.dumps([os.waitstatus_to_exitcode(status), said.read()]), flush=True)


def _do(given: Sequence[str], environment: dict[str, str], said: int) -> None:
    status = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.dup2(said, 1)
        os.dup2(said, 2)
        main(given)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main()
