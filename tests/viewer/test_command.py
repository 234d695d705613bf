"""The command itself: a link that works, an end, and its letters."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
import webbrowser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from holdfast.cli.app import cli
from holdfast.viewer import serving

COMMAND = [sys.executable, "-m", "holdfast", "view"]


def test_it_prints_one_link_that_works_until_it_is_interrupted(run_folder: Path) -> None:
    command = [*COMMAND, str(run_folder), "--no-open"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        link = process.stdout.readline().strip()
        assert link.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(link) as answer:
            assert answer.url == f"{link}run"
        listens = _listening_addresses(process.pid)
        assert listens == {"127.0.0.1"}, "nobody else can ask"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "Ctrl-C ends it.\n")


def _listening_addresses(pid: int) -> set[str]:
    """The addresses at which a process waits for connections (state 0A in /proc/net/tcp, tcp6)."""
    owned = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            owned.add(str(fd.readlink()))
        except OSError:
            continue  # closed meanwhile
    found = set()
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
    for line in [line for table in tables for line in _lines_of(table)]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in owned:
            address = fields[1].partition(":")[0]
            packed = int(address, 16).to_bytes(4, sys.byteorder) if len(address) == 8 else b""
            found.add(socket.inet_ntoa(packed) if packed else address)
    return found


def _lines_of(table: Path) -> list[str]:
    """The lines below the heading; none where this machine has no such protocol."""
    return table.read_text().splitlines()[1:] if table.exists() else []


def test_it_opens_the_browser(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(serving.uvicorn.Server, "run", lambda *_, **__: None)
    done = CliRunner().invoke(cli, ["view", str(run_folder)])
    assert done.exit_code == 0
    assert opened == [done.stdout.strip()]
    CliRunner().invoke(cli, ["view", str(run_folder), "--no-open"])
    assert len(opened) == 1


def test_a_port_that_is_taken(run_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = CliRunner().invoke(cli, ["view", str(run_folder), "--no-open", "--port", str(port)])
    assert done.exit_code == 2
    assert "the viewer cannot listen there" in done.stderr
    assert f"{port}: Address already in use" in done.stderr


def test_what_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["view", str(tmp_path / "gone"), "--no-open"])
    assert done.exit_code == 1
    assert "there is no such file or folder" in done.stderr


def test_without_the_extra_it_says_how_to_install_it() -> None:
    light = Path(__file__).parents[2] / ".venv-light" / "bin" / "python"
    done = subprocess.run(
        [light, "-m", "holdfast", "view", "x.pt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert 'pip install "holdfast[view]"' in done.stderr


def static(*paths: object) -> Any:
    return CliRunner().invoke(cli, ["view", *map(str, paths[:-1]), "--static", str(paths[-1])])


def test_a_page_that_cannot_be_written(run_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "folder.html"
    target.mkdir()
    done = static(run_folder, target)
    assert done.exit_code == 1
    assert str(target) in done.stderr


def test_a_page_never_replaces_what_it_shows(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.pt"
    file.write_bytes((run_folder / "step-00000007.pt").read_bytes())
    before = file.read_bytes()
    linked = tmp_path / "linked.html"
    linked.symlink_to(file)
    for target in (file, linked):
        done = static(file, target)
        assert done.exit_code == 2
        assert "a page is written into a file of its own" in done.stderr
    named = tmp_path / "shown.html"
    named.write_bytes(before)
    assert static(named, named).exit_code == 2
    inside = run_folder / "step-00000007.pt"
    assert static(run_folder, inside).exit_code == 2
    assert inside.read_bytes() == file.read_bytes() == named.read_bytes() == before
