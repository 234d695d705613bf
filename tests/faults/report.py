"""``make faults``: every fault in every case, done to every saver, into docs/reliability.md.

It takes about an hour on two cores. What it found is kept in build/faults, so that a run that
was broken off goes on; ``--anew`` begins again, ``--only-write`` writes what is there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import torch
from tests.faults import rot
from tests.faults.asking import ROOT
from tests.faults.kills import Outcome
from tests.faults.power import can_mount
from tests.faults.savers import OURS, SAVERS

PAGE = ROOT / "docs" / "reliability.md"
KEPT = ROOT / "build" / "faults"
_MARKS = "<!-- begin: make faults -->", "<!-- end: make faults -->"
_MOST_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Work:
    """One fault, done to one saver; ``column`` is where it stands in the table."""

    column: str
    saver: str
    command: tuple[str, ...]

    @property
    def kept(self) -> Path:
        name = re.sub(r"[^\w.]+", "-", " ".join((*self.command, self.saver)))
        return KEPT / f"{name}-{_code()}.json"


@functools.cache
def _code() -> str:
    """A hash of the package and of what does the faults: what was found holds for no other."""
    harness = set((ROOT / "tests" / "faults").glob("*.py")) - {Path(__file__)}
    files = sorted((*(ROOT / "src").rglob("*.py"), *harness))
    found = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    return found.hexdigest()[:12]


def _commit() -> str:
    """The commit that is checked out, and whether the tree is another one."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=, with changes", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


COLUMNS = ("killed", "errors", "power cut, ext4", "power cut, xfs", "power cut, btrfs", "rot")
#: What is no column of the table, as it has no other savers; and in words, what all of it shows.
_PROMISES = {
    "killed": "killed at each system call",
    "errors": "an error of each system call",
    "power cut, ext4": "power cut, ext4",
    "power cut, xfs": "power cut, xfs",
    "power cut, btrfs": "power cut, btrfs",
    "rot": "bits, cuts and blocks of each format",
    "disks": "full disks, limits, lost folders and permissions (tests)",
    "two": "two of everything (tests)",
    "endurance": "lives of a training that ended at random",
}
#: The savers by the names of their files in ``rot``.
_ROTTING = {
    **{kind: re.split(" to |, ", kind)[0] for kind in rot.FILES},
    "convert to shards": "convert, shards",
    **{kind: kind for kind in rot.OTHERS},
}


#: Every so many kills and errors of large saves, where others are not enough: two ways through all
#: the code that writes past the page cache. In the other savers it is the same code again.
_LARGE = {"Run, background": (1, 6), "save": (1, 3)}


def works(share: int = 1) -> Iterator[Work]:
    """All there is to do, on this machine; ``share`` leaves every so many cases."""
    yield Work("endurance", "Run", ("soak", str(1200 // share)))  # it takes longest
    firsts = [("ext4", "dropped"), ("xfs", "dropped")]
    for saver in SAVERS:
        if saver == "Lightning" and find_spec("lightning_fabric") is None:
            continue
        for size, kills, errors in (("small", 1, 1), ("large", *_LARGE.get(saver, (6, 24)))):
            yield Work("killed", saver, ("kill", saver, size, "--share", str(share * kills)))
            yield Work("errors", saver, ("error", saver, size, "--share", str(share * errors)))
        for first in ("kill", "error"):
            command = (first, saver, "small", "--first", "--share", str(2 * share))
            yield Work("killed" if first == "kill" else "errors", saver, command)
        for system, how in _cuts():
            command = ("power", saver, "small", "--system", system, "--how", how)
            yield Work(f"power cut, {system}", saver, (*command, "--share", str(share)))
        for system, how in firsts:
            if can_mount(system):
                command = ("power", saver, "small", "--first", "--system", system, "--how", how)
                yield Work(f"power cut, {system}", saver, (*command, "--share", str(share)))
        command = ("power", saver, "large", "--share", str(2 * share))
        if can_mount("ext4"):
            yield Work("power cut, ext4", saver, command)
    for kind, saver in _ROTTING.items():
        yield Work("rot", saver, ("rot", kind))
    yield Work("disks", "Run", ("tests", "test_disks.py"))
    yield Work("two", "Run", ("tests", "test_two_of_everything.py"))


def _cuts() -> Iterator[tuple[str, str]]:
    for system, how in (
        *(("ext4", "dropped"), ("ext4", "flushed"), ("xfs", "dropped"), ("xfs", "flushed")),
        ("btrfs", "copied"),
    ):
        if can_mount(system):
            yield system, how


def outcome(work: Work) -> Outcome:
    """Do it, unless it was done before."""
    if not work.kept.exists():
        work.kept.write_text(json.dumps(_tried(*work.command).to_json()))
    found = Outcome(**json.loads(work.kept.read_text()))
    print(f"{' '.join(work.command)}: {len(found.wrong)} of {found.happened} wrong", flush=True)
    return found


def _tried(kind: str, *options: str) -> Outcome:
    """Do what a command says, here or in a process of its own."""
    if kind == "rot":
        return rot.rot(*options, headers=None, data=10_000, cuts=1000, swaps=1000)
    if kind == "tests":
        return _tests(*options)
    if kind == "soak":
        account = json.loads(_answer("tests.faults.endurance", *options, "7", may_fail=True))
        found = Outcome("Run", "endurance", account["lives"], account["lives"])
        found.wrong = {f"life {n}": [text] for n, text in enumerate(account["wrong"])}
        return found
    return Outcome(**json.loads(_answer("tests.faults.run", kind, *options)))


def _tests(file: str) -> Outcome:
    """What came of the tests of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "junit.xml"
        _answer("pytest", f"tests/faults/{file}", "-q", f"--junitxml={path}", may_fail=True)
        cases = list(ElementTree.parse(path).iter("testcase"))
    found = Outcome("Run", file, len(cases))
    for case in cases:
        if case.find("skipped") is None:
            bad = [*case.iter("failure"), *case.iter("error")]
            found.note(case.get("name", "?"), [one.get("message", "") for one in bad])
    return found


def _answer(module: str, *options: str, may_fail: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
        check=False,
    )
    if done.returncode != 0 and not may_fail:
        raise RuntimeError(f"{module} {' '.join(options)}: {done.stderr}")
    return done.stdout


def promises(done: Sequence[tuple[Work, Outcome]]) -> str:
    """Cases and failures of holdfast alone, a row for each thing that was tried."""
    lines = ["| tried | cases | failed |", "|---|--:|--:|"]
    for column, words in _PROMISES.items():
        found = [o for work, o in done if work.column == column and work.saver in OURS]
        happened, wrong = sum(o.happened for o in found), sum(len(o.wrong) for o in found)
        if happened:
            lines.append(f"| {words} | {happened:,} | {wrong:,} |")
    return "\n".join(lines)


def table(done: Sequence[tuple[Work, Outcome]]) -> str:
    """Cases and failures, a row for each saver and a column for each fault."""
    lines = [f"| saver | {' | '.join(COLUMNS)} |", "|---|" + "--:|" * len(COLUMNS)]
    for saver in SAVERS:
        cells = []
        for column in COLUMNS:
            found = [o for work, o in done if (work.saver, work.column) == (saver, column)]
            happened = sum(each.happened for each in found)
            wrong = sum(len(each.wrong) for each in found)
            cells.append(_cell(happened, wrong))
        if any(cells):
            name = f"**{saver}**" if saver in OURS else saver
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(happened: int, wrong: int) -> str:
    if not happened:
        return ""
    return f"{wrong:,} of {happened:,} failed" if wrong else f"{happened:,}, none failed"


def examples(done: Sequence[tuple[Work, Outcome]]) -> str:
    """What failed first, of each saver and column with failures; without this machine's folders."""
    first: dict[tuple[str, str], str] = {}
    for work, found in done:
        for case, problems in list(found.wrong.items())[:1]:
            text = re.sub(r"AT_FDCWD<[^>]*>, ", "", f"{found.fault}; {case}: {problems[0]}")
            text = text.replace("|", "\\|").replace("<", "&lt;")
            first.setdefault((work.saver, work.column), f"- {work.saver}: {text[:300]}")
    lines = list(first.values())
    return "\n".join(lines) or "Nothing failed."


def page(done: Sequence[tuple[Work, Outcome]]) -> str:
    """What stands between the marks of the page."""
    ours = [found for work, found in done if work.saver in OURS]
    cases, wrong = sum(o.happened for o in ours), sum(len(o.wrong) for o in ours)
    machine = f"Linux {platform.release()}, Python {platform.python_version()}, torch"
    return "\n\n".join(
        (
            f"{cases:,} cases of holdfast, {wrong} of them failed; at commit {_commit()} (hash of "
            f"the package and the harness: {_code()}), on {machine} {torch.__version__}, "
            f"{os.cpu_count()} cores.",
            promises(done),
            "By saver, and beside them what others do under the same faults:",
            table(done),
            "What failed, one example of each:",
            examples(done),
        )
    )


def write(text: str) -> None:
    """Put it between the marks of the page."""
    before, after = (PAGE.read_text().split(mark)[place] for place, mark in enumerate(_MARKS))
    PAGE.write_text(f"{before}{_MARKS[0]}\n\n{text}\n\n{_MARKS[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.faults.report", description=__doc__)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--only-write", action="store_true")
    parser.add_argument("--share", type=int, default=1, help="so many times fewer cases")
    parser.add_argument("--at-once", type=int, default=4, help="works side by side: most wait")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    todo = list(works(options.share))
    if options.anew:
        for work in todo:
            work.kept.unlink(missing_ok=True)
    if options.only_write:
        todo = [work for work in todo if work.kept.exists()]
    with ThreadPoolExecutor(options.at_once) as pool:
        done = list(zip(todo, pool.map(outcome, todo), strict=True))
    (KEPT / "all.json").write_text(json.dumps([asdict(found) for _, found in done], indent=1))
    write(page(done))
    if any(found.wrong for work, found in done if work.saver in OURS):
        sys.exit("holdfast failed in some cases: see build/faults/all.json")


if __name__ == "__main__":
    main()
