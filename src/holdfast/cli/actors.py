"""The processes of the demo: scripts that train, and can be killed at a moment of one's choice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import HoldfastError

#: The scripts lie in the package when it was installed, in the repository when it was not.
_PLACES = (
    Path(__file__).parents[1] / "examples",
    Path(__file__).parents[3] / "examples",
)
_LOSS = re.compile(r"epoch (\d+)  loss (\S+)")


@dataclass(slots=True)
class Training:
    """A training script at work; what it prints goes into files beside its run."""

    process: subprocess.Popen[bytes]
    printed: Path
    complained: Path

    def finish(self) -> None:
        """Wait until it has ended well.

        Raises:
            HoldfastError: it failed.
        """
        try:
            code = self.process.wait()
        finally:
            self.process.kill()
        if code != 0:
            raise self._ended("the training script failed")

    def kill_when(self, is_time: Callable[[], bool]) -> None:
        """Kill it with SIGKILL at a moment when ``is_time`` holds for certain.

        It is stopped first, so that the moment cannot pass between the look and the kill.

        Raises:
            HoldfastError: it ended before that moment came.
        """
        try:
            while self.process.poll() is None:
                if is_time() and self._is_stopped():
                    if is_time():
                        return
                    self.process.send_signal(signal.SIGCONT)
            raise self._ended("the training ended before it could be killed")
        finally:
            self.process.kill()
            self.process.wait()

    def losses(self) -> dict[str, str]:
        """The losses it printed, by epoch."""
        return dict(_LOSS.findall(self.printed.read_text()))

    def complaints(self) -> list[str]:
        """What it wrote on stderr, line by line."""
        return self.complained.read_text().splitlines()

    def _ended(self, what: str) -> HoldfastError:
        return HoldfastError(
            what,
            found=f"exit code {self.process.returncode}",
            cure=f"It said:\n{self.complained.read_text().strip()}",
        )

    def _is_stopped(self) -> bool:
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return True
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return False


def start(script: str, folder: Path) -> Training:
    """Start an example script in ``folder``."""
    number = len(list(folder.glob("training-*.out")))
    printed = folder / f"training-{number}.out"
    complained = folder / f"training-{number}.err"
    with printed.open("wb") as out, complained.open("wb") as err:
        command = [sys.executable, "-u", str(example(script))]
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err)
    return Training(process, printed, complained)


def example(name: str) -> Path:
    """The path of an example script.

    Raises:
        HoldfastError: this installation has none.
    """
    for place in _PLACES:
        if (place / name).is_file():
            return place / name
    raise HoldfastError(
        "the example scripts are not installed", wanted=name, found=f"nothing in {_PLACES[0]}"
    )
