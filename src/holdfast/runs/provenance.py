"""Where a checkpoint comes from: code, command, machine, versions.

Nothing here may fail or delay a save: what cannot be found out is recorded as text that says why.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

log = logging.getLogger("holdfast")

#: Seconds that git may take to answer.
GIT_TIMEOUT = 2.0

#: Characters of the command line that are recorded.
ARGV_LIMIT = 8192

_LOADED = ("torch", "numpy")


def collect(*, git_timeout: float = GIT_TIMEOUT) -> dict[str, Any]:
    """Facts for the record, as JSON values.

    ``git`` is ``{"commit": 40 digits, "is_dirty": bool}`` or text that says why not; of packages,
    those already imported are recorded, and none is imported for it.
    """
    return {
        "git": _git_of(_code_folder(), git_timeout),
        "argv": _argv(),
        "host": _clean(platform.node()),
        "platform": _platform(),
        "pid": os.getpid(),
        "versions": _versions(),
    }


@functools.lru_cache(maxsize=8)
def _git_of(folder: Path | None, timeout: float) -> dict[str, Any] | str:
    """Asked once: the code that runs is that of when it was loaded, and git takes milliseconds."""
    return git_state(folder, timeout=timeout)


def _platform() -> str:
    try:
        return _clean(platform.platform())
    except (OSError, SystemError) as error:  # it asks for the current folder, which may be gone
        return _not_available(str(error))


def git_state(folder: Path | None, *, timeout: float = GIT_TIMEOUT) -> dict[str, Any] | str:
    """Commit and dirtiness of the repository around ``folder``, or text that says why not.

    Untracked files do not make it dirty. No lock is taken in the repository.
    """
    if folder is None:
        return "not available: the current folder is gone"
    try:
        commit = _git(folder, "rev-parse", "HEAD", timeout=timeout)
        status = _git(folder, "status", "--porcelain", "--untracked-files=no", timeout=timeout)
    except subprocess.TimeoutExpired:
        return _not_available(f"git took over {timeout:g} seconds")
    except subprocess.CalledProcessError as error:
        said = (error.stderr or b"").decode(errors="backslashreplace").strip()
        return _not_available(said.partition("\n")[0] or f"git ended with {error.returncode}")
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return _not_available(str(error))
    return {"commit": commit, "is_dirty": bool(status)}


def _git(folder: Path, *arguments: str, timeout: float) -> str:
    # No file-system monitor: it is a program that the repository's own settings name.
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=True,
    )
    return done.stdout.decode(errors="backslashreplace").strip()


def _not_available(why: str) -> str:
    log.debug("the record goes without git: %s", why)
    return f"not available: {_clean(why)}"


def _code_folder() -> Path | None:
    """The folder of the running script, else the current one; None when that is gone."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return Path(script).resolve().parent if isinstance(script, str) else Path.cwd()
    except (OSError, ValueError) as error:
        log.debug("where the code lies is not known: %s", error)
        return None


def _argv() -> list[str]:
    argv, left = [], ARGV_LIMIT
    for argument in getattr(sys, "argv", []):
        text = _clean(str(argument))
        argv.append(text if len(text) <= left else text[: max(0, left)] + "...")
        left -= len(text)
        if left < 0:
            break
    return argv


def _versions() -> dict[str, str]:
    try:
        own = _own_version()
    except (OSError, ValueError, KeyError) as error:  # such as no descriptor to read it by
        own = _not_available(str(error))
    versions = {"python": platform.python_version(), "holdfast": own}
    for name in _LOADED:
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            versions[name] = _clean(str(version))
    return versions


@functools.cache
def _own_version() -> str:
    """Looked up once: finding a package and reading what it says of itself takes milliseconds."""
    try:
        return metadata.version("holdfast")
    except metadata.PackageNotFoundError as error:
        log.debug("holdfast runs without being installed: %s", error)
        return "not installed"


def _clean(text: str) -> str:
    """``text`` as UTF-8 can hold it: names from the system may carry bytes that are none."""
    return text.encode("utf-8", "backslashreplace").decode()
