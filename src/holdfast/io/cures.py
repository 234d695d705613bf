"""What to do when the system refuses to write, by its error number: one table for all letters."""

from __future__ import annotations

import errno
from pathlib import Path

_OWNER = "Check who owns the folder and its permissions: ls -ld {folder}"
_NOT_A_FOLDER = "A part of the path is a file, not a folder: choose another path."

#: Said wherever there is no room, inside a run and outside one.
FREE_SPACE = "Free some space; in a run, keep= says how many checkpoints stay."

_CURES = {
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EROFS: "The file system is mounted read-only: save somewhere else, or remount it.",
    errno.EFBIG: "A file-size limit is set: see ulimit -f, or the file system's own limit.",
    errno.ENOSPC: FREE_SPACE,
    errno.ENAMETOOLONG: "Give it a shorter name.",
    errno.EEXIST: _NOT_A_FOLDER,
    errno.ENOTDIR: _NOT_A_FOLDER,
}
if hasattr(errno, "EDQUOT"):
    _CURES[errno.EDQUOT] = f"The quota is used up. {FREE_SPACE}"


def cure_of(error: OSError, folder: Path, *, otherwise: str) -> str:
    """What to do about an error of writing into ``folder``; ``otherwise`` where nothing is known.

    ``{folder}`` in ``otherwise`` stands for the folder too.
    """
    return _CURES.get(error.errno or 0, otherwise).replace("{folder}", str(folder))
