"""Where a path is taken: a file, a checkpoint folder, ``RUN``, ``RUN@best:loss``, ``RUN@100``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import NoCheckpointError, UsageError
from holdfast.io.files import cannot_be_read
from holdfast.spec.index import Index


@dataclass(frozen=True, slots=True)
class Where:
    """A path, and which checkpoint of the run there is meant (None: the path itself, or latest)."""

    path: Path
    which: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.which is None else f"{self.path}@{self.which}"


def parse(text: str | os.PathLike[str]) -> Where:
    """Read ``RUN@best:loss`` and the like; a path that exists as it stands wins.

    Raises:
        UsageError: nothing stands before or behind the ``@``.
    """
    whole = os.fspath(text)
    cuts = [place for place, sign in enumerate(whole) if sign == "@"]
    if whole and (not cuts or os.path.lexists(whole)):
        return Where(Path(whole))
    # The last @ before which something lies: both the path and the metric may hold others.
    last = cuts[-1] if cuts else 0
    cut = next((cut for cut in reversed(cuts) if cut and os.path.lexists(whole[:cut])), last)
    path, which = whole[:cut], whole[cut + 1 :]
    if not path or not which:
        raise UsageError(
            "this names no checkpoint",
            wanted="RUN@latest, RUN@best:METRIC or RUN@STEP",
            found=repr(whole),
        )
    return Where(Path(path), which)


def resolve(text: str | os.PathLike[str], *, read: Callable[[Path], Index] | None = None) -> Path:
    """The path of the checkpoint that ``text`` names; a run's latest where it does not say.

    No lock is taken and nothing is created.

    Raises:
        NoCheckpointError: nothing is there, or not what was asked for.
        FileError: it, or the folder it is to be found in, may not be read.
        UsageError: ``text`` asks one file which of its checkpoints, or for an unknown metric.
    """
    where = parse(text)
    if _is_folder(where.path):
        # Most paths are files, which need nothing of what knows runs.
        from holdfast.runs import reading
        from holdfast.runs.finding import find, say_passed_over
        from holdfast.runs.listing import list_run

        if not reading.is_checkpoint_folder(where.path):
            entries = list_run(where.path, read=read or reading.read_briefly)
            which = where.which or "latest"
            found = find(entries, which, folder=where.path)
            say_passed_over(entries, which)
            return found.path
    if where.which is not None:
        raise UsageError(
            "one checkpoint has no others to choose from",
            file=where.path,
            found=f"@{where.which}",
            cure="Give the run folder before the @, or leave the @ out.",
        )
    return where.path


def _is_folder(path: Path) -> bool:
    """Whether a path that is there is that of a folder; False for a link to nothing."""
    try:
        path.lstat()
        return path.is_dir()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise NoCheckpointError(
            "there is no such file or folder",
            file=path,
            cure="A path is a file, a checkpoint folder, RUN, RUN@best:METRIC or RUN@STEP.",
        ) from error
    except OSError as error:
        raise cannot_be_read(str(path), error) from error
