"""The system calls of a thread, counted and tampered with by strace."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

#: Calls that touch the file system; a ``?`` before those that some machines lack.
CALLS = (
    *("openat", "?open", "?creat", "close", "read", "pread64", "preadv", "write", "pwrite64"),
    *("writev", "?pwritev", "?pwritev2", "?sendfile", "?copy_file_range", "ftruncate"),
    *("?truncate", "fallocate", "fsync", "fdatasync", "?sync_file_range", "?syncfs", "?rename"),
    *("renameat", "?renameat2", "?unlink", "unlinkat", "?mkdir", "mkdirat", "?rmdir", "?link"),
    *("linkat", "fcntl", "flock", "lseek", "?newfstatat", "fstat", "?stat", "?lstat", "?statx"),
    *("statfs", "fstatfs", "?access", "faccessat", "?faccessat2", "getdents64", "?chmod", "fchmod"),
    *("fchmodat", "fchown", "?chown", "?utimensat", "?ioctl", "?fadvise64", "?readlink"),
    *("readlinkat",),
)
_LINE = re.compile(r"^(?P<tid>\d+) +(?P<name>\w+)\((?P<rest>.*)$")


@dataclass(frozen=True, slots=True)
class Call:
    """The ``number``-th call of that name that a thread makes, from 1; ``thread`` "" is any."""

    thread: str
    name: str
    number: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.name} #{self.number} of {self.thread or 'a new thread'}: {self.text}"

    @property
    def opens_a_folder(self) -> bool:
        return "O_DIRECTORY" in self.text


class Strace:
    """strace at work on a process that stands still, or on one thread of it."""

    def __init__(self, log: Path, pid: int, *options: str, only_thread: bool = False) -> None:
        self.log = log
        follow = [] if only_thread else ["-f"]
        command = ["strace", *follow, "-y", "-s", "0", "-o", str(log), *options, "-p", str(pid)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self._said = self._process.stderr.readline()
        if "attached" not in self._said:
            raise RuntimeError(self._said + self._process.stderr.read())

    def ended(self) -> str:
        """Wait until what is traced has ended; the log."""
        self._process.communicate()
        return self.log.read_text()

    def detach(self) -> None:
        self._process.terminate()
        self._process.communicate()

    def seen(self, text: str, seconds: float = 10) -> bool:
        """Wait until the log has a text; False where it does not come, or all has ended."""
        until = time.monotonic() + seconds
        while text not in self.log.read_text():
            if time.monotonic() > until or self._process.poll() is not None:
                return text in self.log.read_text()
            time.sleep(0.002)
        return True


def watching() -> str:
    return "trace=" + ",".join(CALLS)


def calls_of(log: str, threads: dict[str, int], folder: Path) -> list[Call]:
    """The calls of a log that touch a folder, each with its number among those of its name."""
    names = {tid: name for name, tid in threads.items()}
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in log.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        key = match["tid"], match["name"]
        counts[key] = counts.get(key, 0) + 1
        if str(folder) in match["rest"]:
            text = match["rest"].replace(str(folder), "RUN").partition(" <unfinished")[0]
            thread = names.get(int(match["tid"]), "")
            found.append(Call(thread, match["name"], counts[key], text[:120]))
    return found
