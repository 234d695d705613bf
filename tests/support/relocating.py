"""Files as another machine would have written them."""

from __future__ import annotations

import zipfile
from pathlib import Path

_CPU = b"X\x03\0\0\0cpu"


def relocate(path: Path, location: str) -> None:
    """Rewrite a torch zip of CPU tensors as if they had been saved on another device.

    The text of a location is data in the pickle; a file saved on a GPU differs by it alone.
    """
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    [pickle] = [name for name in members if name.endswith("data.pkl")]
    assert _CPU in members[pickle]
    text = b"X" + len(location).to_bytes(4, "little") + location.encode()
    members[pickle] = members[pickle].replace(_CPU, text)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
