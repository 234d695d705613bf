"""A disk that is full while a program is written: a letter, and nothing left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import holdfast
from holdfast.errors import NoSpaceError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


@pytest.fixture(params=["200k", "700k"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Too small for the program, or for the program and a copy of it."""
    size = f"size={request.param}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m.ts", {}),
        ("m.ts", {"method": "trace"}),
        ("m.pt2", {}),
        ("m.onnx", {}),
        ("m.onnx", {"opset": 13}),
    ],
)
def test_it_is_a_letter_and_the_process_lives(disk: Path, name: str, options: Any) -> None:
    """torch's own writer would end the process where it cannot write."""
    (disk / name).write_bytes(b"before")
    with pytest.raises(NoSpaceError) as caught:
        holdfast.export(nn.Linear(400, 400), torch.randn(2, 400), disk / name, **options)
    assert str(disk / name) in str(caught.value)
    texts = ("the program could not be written", "the disk has no room for this program")
    assert str(caught.value).startswith(texts)
    assert "Free some space" in str(caught.value)
    assert [file.name for file in disk.iterdir()] == [name]
    assert (disk / name).read_bytes() == b"before"
