"""The command line as a process: what it imports, its exit codes, its colours on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.tensors.encode import alignment

SOURCE = str(Path(__file__).parents[3] / "src")
HOLDFAST = [sys.executable, "-m", "holdfast"]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCE, "TERM": "xterm"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "runs/a"],
        ["show", "runs/a"],
        ["verify", "runs/a"],
        ["path", "runs/a", "latest"],
        ["prune", "runs/a", "--keep", "latest:1", "--dry-run"],
        ["--help"],
        ["demo", "--help"],
    ],
    ids=" ".join,
)
def test_looking_never_imports_torch(arguments, run, environment) -> None:
    command = [sys.executable, "-X", "importtime", *HOLDFAST[1:], *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "holdfast.cli.app" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "torchdata")}


def in_terminal(arguments, environment, typed: bytes = b"") -> tuple[int, str]:
    """Run on a real pseudo-terminal; ``typed`` is typed once the program has printed a question."""
    pid, fd = pty.fork()
    if pid == 0:
        # Shells start background jobs, and so perhaps these tests, with Ctrl-C ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvpe(HOLDFAST[0], [*HOLDFAST, *arguments], environment)
    output = sent = b""
    patience = 12
    while True:
        if not select.select([fd], [], [], 5)[0]:
            patience -= 1
            if not patience:
                os.kill(pid, signal.SIGKILL)
            # A Ctrl-C in the instant before Python's input() waits is noticed with the next key.
            os.write(fd, sent if sent == b"\x03" else b"")
            continue
        try:
            chunk = os.read(fd, 4096)
        except OSError:  # Linux says EIO when the other side is closed
            break
        if not chunk:
            break
        output += chunk
        if typed and output.rstrip().endswith(b"[y/N]:"):
            os.write(fd, typed)
            typed, sent = b"", typed
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode()


def test_colour_on_a_terminal_only_and_not_under_no_color(run, environment) -> None:
    code, shown = in_terminal(["list", "runs/a"], environment)
    assert code == 0
    assert "\x1b[" in shown
    plain = in_terminal(["list", "runs/a"], {**environment, "NO_COLOR": "1"})[1]
    assert "\x1b[" not in plain
    piped = subprocess.run([*HOLDFAST, "list", "runs/a"], env=environment, capture_output=True)
    assert plain.replace("\r\n", "\n") == piped.stdout.decode()


@pytest.mark.parametrize(
    ("typed", "code", "left"),
    [(b"y\n", 0, 1), (b"n\n", 0, 3), (b"\x03", 130, 3), (b"\x04", 130, 3)],
)
def test_prune_asks(typed, code, left, run, environment) -> None:
    arguments = ["prune", "runs/a", "--keep", "latest:1"]
    found, shown = in_terminal(arguments, environment, typed)
    size = "5.8" if alignment() is None else "6.6"  # torch before 2.7 writes smaller files
    assert f"Remove 2 checkpoints, {size} KiB? [y/N]:" in shown
    assert (found, len(list(run.glob("*.pt")))) == (code, left)


def test_a_name_that_the_terminal_cannot_show_is_no_crash(run, environment) -> None:
    import torch

    torch.save({"模型": torch.zeros(1)}, "model.pt")
    latin = {**environment, "PYTHONIOENCODING": "latin-1"}
    for extra in ([], ["--json"]):
        done = subprocess.run(
            [*HOLDFAST, "show", "model.pt", *extra], env=latin, capture_output=True, text=True
        )
        assert done.returncode == 0
        assert "\\u6a21\\u578b" in done.stdout


def test_a_reader_that_leaves_early_is_no_traceback(run, environment) -> None:
    command = f"{sys.executable} -m holdfast show runs/a | head -n 1"
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
    assert done.stdout == "runs/a/step-00000030.pt\n"
    assert done.stderr == ""


def test_the_version(environment) -> None:
    done = subprocess.run([*HOLDFAST, "--version"], env=environment, capture_output=True, text=True)
    assert done.stdout == "holdfast 0.1.0\n"
