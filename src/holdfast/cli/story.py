"""The demo's story: every sentence it prints is checked, and a false one ends it with an error."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast import looking
from holdfast.cli.actors import Training, example, start
from holdfast.cli.output import answer
from holdfast.errors import HoldfastError, UsageError
from holdfast.runs.marks import overview

EPOCHS = 100
FIRST_KILL, SECOND_KILL = 30, 60


@dataclass(slots=True)
class Story:
    """One telling, in ``folder``; ``acts`` collects what happened."""

    folder: Path
    is_silent: bool = False
    acts: list[dict[str, Any]] = field(default_factory=list)
    losses: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def run(self) -> Path:
        """The run folder that the training script makes."""
        return self.folder / "runs" / "iris"

    def to_json(self) -> dict[str, Any]:
        """Folder, seconds, and what each act found out."""
        seconds = round(time.monotonic() - self.started, 1)
        return {"folder": str(self.folder), "seconds": seconds, "acts": self.acts}

    def tell(self) -> None:
        """All acts in order.

        Raises:
            HoldfastError: something in the story is not true.
            UsageError: it cannot be told here.
        """
        _check_stage(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._line("A small classifier learns to tell 150 Iris flowers apart: 100 epochs, Adam,")
        self._line(
            "dropout, a learning-rate schedule, a shuffling loader. Holdfast keeps its state."
        )
        for act in (self._undisturbed, self._killed_in_training, self._killed_in_a_save):
            act()
        for act in (self._finished, self._damaged, self._tools):
            act()
        self._line()
        self._line(
            f"Everything above was checked, in {time.monotonic() - self.started:.0f} seconds."
        )
        self._line(f"The files are in {self.folder}; remove them when you like.")

    def _undisturbed(self) -> None:
        self._act("The loop without holdfast, and nobody disturbs it: iris_plain.py")
        plain = start("iris_plain.py", self.folder)
        plain.finish()
        self.losses = plain.losses()
        _must(len(self.losses) == EPOCHS, "the plain loop printed every epoch")
        self._fact(f"{EPOCHS} epochs done, last loss {self.losses[str(EPOCHS - 1)]}")

    def _killed_in_training(self) -> None:
        self._act("The same loop with holdfast, killed in the middle of training: iris.py")
        training = start("iris.py", self.folder)
        training.kill_when(lambda: self._newest() >= FIRST_KILL and not self._temps())
        self._fact("kill -9: no warning, no time to clean up")
        self._check_losses(training, first=0)
        self._fact(f"the latest checkpoint on disk is {self._latest()}")

    def _killed_in_a_save(self) -> None:
        next_step = self._newest() + 1
        self._act("Started again, and killed again, now in the middle of a save")
        training = start("iris.py", self.folder)
        training.kill_when(lambda: self._newest() >= SECOND_KILL and self._is_saving())
        self._check_losses(training, first=next_step)
        self._fact(f"it went on at epoch {next_step}, right behind the last checkpoint")
        for temp in self._temps():
            size = f"{temp.stat().st_size:,} bytes"
            self._fact(f"left of that save: {temp.name}, {size} that never became a checkpoint")
        self._fact(f"the latest checkpoint is still {self._latest()}, and whole")
        _must(looking.verify(self.run).ok, "the latest checkpoint is whole after the kill")

    def _finished(self) -> None:
        next_step = self._newest() + 1
        self._act("Started again, and left alone")
        training = start("iris.py", self.folder)
        training.finish()
        self._check_losses(training, first=next_step)
        _must(self._newest() == EPOCHS - 1, "the training went to its end")
        _must(not self._temps(), "what the killed save had left is gone")
        self._fact(f"it went on at epoch {next_step}, to the end; what the kill left is swept away")
        self._fact(f"every loss it printed is that of the undisturbed loop, {EPOCHS} of {EPOCHS}")
        self._fact(f"its weights: {self._compare_weights()}")

    def _damaged(self) -> None:
        damaged = looking.find(self.run, "latest")[0]
        self._act("One byte of the newest checkpoint flips, as bad memory or a bad disk does it")
        _flip_a_byte(damaged)
        _must(not looking.verify(damaged).ok, "the damage is seen")
        self._tool("verify", str(damaged.relative_to(self.folder)), code=1)
        self._line()
        self._line("   Started again, it falls back to the one before, and says so:")
        training = start("iris.py", self.folder)
        training.finish()
        for line in training.complaints():
            self._line(f"   | {line}")
        _must(damaged.name in training.complained.read_text(), "the fallback is said")
        self._check_losses(training, first=EPOCHS - 1)
        self._fact(f"epoch {EPOCHS - 1} was done once more; its weights: {self._compare_weights()}")

    def _tools(self) -> None:
        self._act("What it made")
        self._tool("list", "runs/iris")
        self._line()
        self._tool("show", "runs/iris")

    def _act(self, title: str) -> None:
        self.acts.append({"title": title, "facts": []})
        self._line()
        self._line(f"{len(self.acts)}  {title}")

    def _fact(self, text: str) -> None:
        self.acts[-1]["facts"].append(text)
        self._line(f"   {text}")

    def _line(self, line: str = "") -> None:
        if not self.is_silent:
            answer(line)

    def _tool(self, *arguments: str, code: int = 0) -> None:
        self._line(f"   $ holdfast {' '.join(arguments)}")
        out = subprocess.DEVNULL if self.is_silent else None
        sys.stdout.flush()
        command = [sys.executable, "-m", "holdfast", *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=out, stderr=out)
        _must(done.returncode == code, f"holdfast {arguments[0]} ends with exit code {code}")

    def _newest(self) -> int:
        names = [path.stem.removeprefix("step-") for path in self.run.glob("step-*.pt")]
        return max((int(name.partition(".")[0]) for name in names), default=-1)

    def _temps(self) -> list[Path]:
        return list(self.run.glob(".step-*.tmp"))

    def _is_saving(self) -> bool:
        try:
            return any(temp.stat().st_size > 0 for temp in self._temps())
        except FileNotFoundError:  # it was renamed meanwhile: that save is done
            return False

    def _latest(self) -> str:
        return str(overview(self.run).latest)

    def _check_losses(self, training: Training, *, first: int) -> None:
        losses = training.losses()
        _must(min(map(int, losses)) == first, f"the training went on at epoch {first}")
        for epoch, loss in losses.items():
            _must(loss == self.losses[epoch], f"the loss of epoch {epoch} is the undisturbed one")

    def _compare_weights(self) -> str:
        command = [sys.executable, str(example("same_weights.py"))]
        files = [self.folder / "plain.pt", looking.find(self.run, "latest")[0]]
        done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True)
        _must(done.returncode == 0, f"the weights are the same ({done.stderr.strip()})")
        return done.stdout.strip()


def _check_stage(folder: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "the demo trains, so it needs torch", cure='Install it: pip install "holdfast[torch]"'
        )
    if not hasattr(signal, "SIGSTOP"):
        raise UsageError("the demo kills processes in a way that this system does not have")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError("the demo needs a folder of its own", file=folder, found="files in it")


def _flip_a_byte(path: Path) -> None:
    index = looking.open(path).index
    weight = next(iter(index.tree["model"].values()))
    place = index.extents[weight.storage.key].offset
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
        os.fsync(file.fileno())


def _must(is_true: bool, what: str) -> None:
    if not is_true:
        raise HoldfastError("the demo found something that should not be", wanted=what)
