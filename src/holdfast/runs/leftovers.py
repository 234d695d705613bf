"""What dead writers left in a run folder: temps that nobody holds any more, and trash."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.io import temps
from holdfast.runs.reading import explained

#: Exactly the names that ``io.folders.trash`` gives.
_TRASH = re.compile(r"\.trash-[0-9a-f]{8}-.+", re.DOTALL)


def dead_files(folder: str | Path) -> list[Path]:
    """The temps and trash of dead writers in a folder, sorted by name; none without a folder.

    Raises FileError where the folder may not be read.

    Trash counts as dead: only the holder of the run's lock makes it, so call this holding it.
    """
    try:
        paths = sorted(Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise explained(error, Path(folder)) from error
    return [path for path in paths if _TRASH.fullmatch(path.name) or _is_dead_temp(path)]


def sweep(folder: str | Path) -> list[Path]:
    """Remove what dead writers left, and say so in the log; the paths removed."""
    return [path for path in dead_files(folder) if _remove(path)]


def _remove(path: Path) -> bool:
    return temps.remove(path) if _TRASH.fullmatch(path.name) else temps.remove_dead(path)


def _is_dead_temp(path: Path) -> bool:
    return temps.NAME.fullmatch(path.name) is not None and temps.is_dead(path)
