"""What dead writers left in a run folder: temps that nobody holds any more, and trash."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from holdfast.errors import FileError
from holdfast.io import temps
from holdfast.runs.listing import is_there
from holdfast.runs.pins import is_pinned
from holdfast.runs.reading import explained

log = logging.getLogger("holdfast")

#: Exactly the names that ``io.folders.trash`` gives.
_TRASH = re.compile(r"\.trash-[0-9a-f]{8}-.+", re.DOTALL)


def dead_files(folder: str | Path) -> list[Path]:
    """The temps and trash of dead writers in a folder, sorted by name; none without a folder.

    Raises FileError where the folder may not be read.

    Trash counts as dead: only the holder of the run's lock makes it, so call this holding it.
    """
    paths = _listed(Path(folder))
    return [path for path in paths if _TRASH.fullmatch(path.name) or _is_dead_temp(path)]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise explained(error, folder) from error


def sweep(folder: str | Path) -> list[Path]:
    """Remove what dead writers left, and say so in the log; the paths removed.

    What was pinned while a pruning that died took its name away gets the name back.
    """
    return [path for path in dead_files(folder) if not _given_back(path) and _remove(path)]


def sweep_trash(folder: Path) -> None:
    """Remove what a pruning before this one could not, and died not of; hold the run's lock.

    Raises:
        FileError: the folder may not be read.
    """
    for path in _listed(folder):
        if _TRASH.fullmatch(path.name) and not _given_back(path):
            temps.remove(path)


def _given_back(path: Path) -> bool:
    if _TRASH.fullmatch(path.name) is None:
        return False
    name = path.with_name(path.name[len(".trash-00000000-") :])
    try:
        if not is_pinned(name) or is_there(name):
            return False
    except (OSError, FileError) as error:
        log.warning("%s stays: whether it was pinned cannot be said (%s)", path, error)
        return True
    path.rename(name)
    log.warning("%s was pinned while it was pruned: it is there again", name)
    return True


def _remove(path: Path) -> bool:
    return temps.remove(path) if _TRASH.fullmatch(path.name) else temps.remove_dead(path)


def _is_dead_temp(path: Path) -> bool:
    return temps.NAME.fullmatch(path.name) is not None and temps.is_dead(path)
