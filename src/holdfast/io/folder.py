"""A checkpoint folder as a source: its files, and nothing outside it."""

from __future__ import annotations

from pathlib import Path

from holdfast.errors import RefusedError
from holdfast.io.files import cannot_be_read, changed, open_file
from holdfast.io.positional import Source

#: Files of one folder that stay open; systems allow a process few more by default (256 and 1024).
_MOST_HELD = 100


class Folder(Source):
    """A checkpoint folder: no bytes of its own, and the files in it as sources below it."""

    is_folder = True
    size = 0

    def __init__(self, path: str) -> None:
        super().__init__()
        self.name = self.path = path

    def names(self) -> list[str]:
        """The names of what lies in it, sorted; raises FileError."""
        try:
            return sorted(entry.name for entry in Path(self.name).iterdir())
        except OSError as error:
            raise self._failed(error) from error

    def has(self, relative: str) -> bool:
        """Whether a file of that name lies in it; raises FileError."""
        try:
            return (Path(self.name) / relative).is_file()
        except OSError as error:
            raise self._failed(error) from error

    def open(self, relative: str) -> Source:
        """The file at a path below the folder, opened once.

        Raises:
            RefusedError: the path, or a link on it, leads out of the folder.
            NoCheckpointError: it is not there.
        """
        steps = relative.split("/")
        if "\\" in relative or "\0" in relative or any(step in ("", ".", "..") for step in steps):
            raise self._leads_out(relative, relative)
        path = Path(self.name) / relative
        if str(path) not in self._below:
            self._check_links(relative, path)
            self.adopt(
                open_path(str(path)) if len(self._below) < _MOST_HELD else _Unheld(str(path))
            )
        return self._below[str(path)]

    def _check_links(self, relative: str, path: Path) -> None:
        try:
            home, target = Path(self.name).resolve(), path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before 3.13
            raise self._leads_out(relative, str(error)) from error
        homes = [home]
        if home.parent.name == "snapshots":  # a download cache: blobs beside, links in snapshots
            homes.append(home.parent.parent / "blobs")
        if not any(target.is_relative_to(each) for each in homes):
            raise self._leads_out(relative, str(target))

    def _leads_out(self, relative: str, found: str) -> RefusedError:
        return RefusedError(
            "refused: the files of a checkpoint folder lie in it",
            file=self.name,
            member=relative[:200],
            found=ascii(found)[1:-1][:200],
            cure="A link that leads elsewhere on purpose: copy the folder with cp -rL first.",
        )

    def _read_some(self, offset: int, view: memoryview) -> int:
        return 0

    def _close(self) -> None:
        """The files below are closed already."""


class _Unheld(Source):
    """One file of very many, opened anew for each read, and read only while it is the same one."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.name = self.path = path
        with open_file(path) as source:
            self.size = source.size
            self._identity = self._identity_now()

    def _read_some(self, offset: int, view: memoryview) -> int:
        with open_file(self.name) as source:
            if self._identity_now() != self._identity:
                raise changed(self.name)
            return source._read_some(offset, view)

    def _identity_now(self) -> tuple[int, ...]:
        found = Path(self.name).stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _close(self) -> None:
        """Nothing is held."""


def open_path(path: str) -> Source:
    """A file, or a folder, by its path; raises like ``open_file``."""
    try:
        is_folder = Path(path).is_dir()
    except OSError as error:
        raise cannot_be_read(path, error) from error
    return Folder(path) if is_folder else open_file(path)
