from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from types import ModuleType

import pytest

from holdfast.runs import provenance
from holdfast.runs.provenance import collect, git_state

IDENTITY = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


def git(folder, *arguments):
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("pass\n")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def program(folder, text):
    """Put a program called git first on the path."""
    path = folder / "bin" / "git"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    path.chmod(0o755)
    return str(path.parent)


def test_the_facts_are_json(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--lr", "0.1", "\udcff"])
    facts = json.loads(json.dumps(collect(), ensure_ascii=False).encode())
    assert sorted(facts) == ["argv", "git", "host", "pid", "platform", "versions"]
    assert facts["argv"] == ["train.py", "--lr", "0.1", "\\udcff"]
    assert facts["pid"] == os.getpid()
    assert facts["versions"]["python"].count(".") == 2


def test_git_tells_commit_and_dirt(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(repository) == {"commit": commit, "is_dirty": False}
    (repository / "notes.txt").touch()
    assert git_state(repository) == {"commit": commit, "is_dirty": False}
    (repository / "train.py").write_text("changed\n")
    assert git_state(repository) == {"commit": commit, "is_dirty": True}


def test_the_repository_is_only_read(repository):
    index = repository / ".git" / "index"
    os.utime(repository / "train.py", (1, 1))  # git status would note the new time in the index
    before = index.stat().st_mtime_ns, index.read_bytes()
    assert git_state(repository) == {
        "commit": git(repository, "rev-parse", "HEAD"),
        "is_dirty": False,
    }
    assert (index.stat().st_mtime_ns, index.read_bytes()) == before


def test_no_program_named_by_the_repository_runs(repository):
    trap = repository / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {repository}/sprung\n")
    trap.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(trap))
    assert isinstance(git_state(repository), dict)
    assert not (repository / "sprung").exists()


def test_the_scripts_folder_counts_not_the_current_one(repository, tmp_path_factory):
    script = repository / "who.py"
    script.write_text("from holdfast.runs import provenance; print(provenance.collect()['git'])")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert git(repository, "rev-parse", "HEAD") in done.stdout


def test_outside_a_repository_it_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    caplog.set_level(logging.DEBUG, "holdfast")
    said = git_state(tmp_path)
    assert isinstance(said, str)
    assert said.startswith("not available: fatal: not a git repository")
    assert caplog.messages == [f"the record goes without git: {said.split(': ', 1)[1]}"]


def test_without_git_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == ("not available: [Errno 2] No such file or directory: 'git'")


def test_a_repository_without_a_commit_is_no_error(tmp_path):
    git(tmp_path, "init", "-q")
    assert str(git_state(tmp_path)).startswith("not available: fatal: ")


def test_git_that_hangs_is_left_behind(tmp_path, monkeypatch):
    path = program(tmp_path, "import signal; signal.pause()")
    monkeypatch.setenv("PATH", path, prepend=os.pathsep)
    began = time.monotonic()
    assert git_state(tmp_path, timeout=0.2) == "not available: git took over 0.2 seconds"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit(3)", "not available: git ended with 3"),
        ("import os; os.kill(os.getpid(), 15)", "not available: git ended with -15"),
        ("import os; os.write(2, b'\\xff\\n\\n'); raise SystemExit(1)", "not available: \\xff"),
    ],
)
def test_git_that_fails_in_odd_ways_is_text(tmp_path, monkeypatch, text, said):
    monkeypatch.setenv("PATH", program(tmp_path, text), prepend=os.pathsep)
    assert git_state(tmp_path) == said


def test_a_folder_that_is_gone_is_no_error(tmp_path):
    script = """
import os, sys, tempfile
sys.path[:] = [os.path.abspath(p) for p in sys.path]
from holdfast.runs.provenance import collect
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
print(collect()["git"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "not available: the current folder is gone\n"


def test_versions_of_what_is_imported_and_nothing_more(monkeypatch):
    for name in ("torch", "numpy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert sorted(collect()["versions"]) == ["holdfast", "python"]
    assert "torch" not in sys.modules
    torch = ModuleType("torch")
    torch.__version__ = "2.13.0+cpu"
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert collect()["versions"]["torch"] == "2.13.0+cpu"


def test_an_endless_command_line_is_cut(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "x" * 9000, "y"])
    argv = collect()["argv"]
    assert argv == ["train.py", "x" * (provenance.ARGV_LIMIT - len("train.py")) + "..."]
    monkeypatch.delattr(sys, "argv")
    assert collect()["argv"] == []


def test_a_version_that_cannot_be_read_is_text_and_read_the_next_time(monkeypatch):
    """A process that is out of descriptors saves all the same."""

    def refuse(_name):
        raise OSError(24, "Too many open files")

    provenance._own_version.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(provenance.metadata, "version", refuse)
        found = provenance.collect()["versions"]["holdfast"]
    assert found == "not available: [Errno 24] Too many open files"
    assert provenance.collect()["versions"]["holdfast"] != found
