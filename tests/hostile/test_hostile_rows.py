"""Rows of the list of attacks that no other file here is about."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from scanning import torch_zip

import holdfast
from holdfast.errors import DamagedError, UntrustedError


class Mine:
    """A class of the user's own."""


def flip(path: Path, marker: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(marker)] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_of_a_storage_names_the_tensor_wherever_it_is_read(tmp_path):
    path = tmp_path / "a.pt"
    tree = {"model": {"w": torch.full((5,), 3.25), "b": torch.zeros(5)}}
    torch.save(tree, path)
    flip(path, tree["model"]["w"].numpy().tobytes())
    with holdfast.open(path) as checkpoint:
        assert checkpoint.array("model.b").tolist() == [0] * 5
        for read in (checkpoint.array, checkpoint.tensor, checkpoint.text, checkpoint.numbers):
            with pytest.raises(DamagedError) as caught:
                read("model.w")
            assert caught.value.tensor == "model.w"
            assert caught.value.member == "a/data/0"
    for act in (
        lambda: holdfast.load(path),
        lambda: holdfast.convert(path, tmp_path / "b.pt"),
        lambda: holdfast.convert(path, tmp_path / "b.safetensors"),
    ):
        with pytest.raises(DamagedError) as caught:
            act()
        assert caught.value.tensor == "model.w"
    assert list(tmp_path.iterdir()) == [path]
    assert [damage.tensors for damage in holdfast.verify(path).damages] == [("model.w",)]


def test_a_flipped_byte_of_a_slice_names_the_tensor(tmp_path):
    tree = {"w": torch.full((5,), 3.25), "b": torch.zeros(5)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process only
        dcp.save(tree, checkpoint_id=tmp_path)
    flip(tmp_path / "__0_0.distcp", tree["w"].numpy().tobytes())
    with holdfast.open(tmp_path) as checkpoint:
        assert checkpoint.array("b").tolist() == [0] * 5
        with pytest.raises(DamagedError) as caught:
            checkpoint.array("w")
    assert caught.value.tensor == "w"
    assert [damage.tensors for damage in holdfast.verify(tmp_path).damages] == [("w",)]


def test_what_torch_was_told_to_take_changes_nothing_here(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"x": Mine()}, path)
    with torch.serialization.safe_globals([Mine]):
        assert isinstance(torch.load(path, weights_only=True)["x"], Mine)
        with pytest.raises(UntrustedError):
            holdfast.load(path)
        assert holdfast.scan(path).verdict == "unknown symbols"


def test_what_is_imported_changes_nothing_here(tmp_path):
    """torch.distributed.tensor adds its classes to torch's list when it is imported."""
    path = tmp_path / "a.pt"
    path.write_bytes(
        torch_zip(b"\x80\x02ctorch.distributed.tensor._dtensor_spec\nDTensorSpec\n)R.")
    )
    code = (
        "import sys, torch.distributed.tensor, holdfast, holdfast.errors\n"
        "assert holdfast.scan(sys.argv[1]).verdict == 'unknown symbols'\n"
        "try: holdfast.load(sys.argv[1])\n"
        "except holdfast.errors.HoldfastError as error: print(type(error).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, path], capture_output=True, text=True
    )
    assert done.stdout == "UntrustedError\n", done.stderr


def test_memo_numbers_cost_no_memory(tmp_path):
    """The greatest number a pickle can name, and numbers far apart."""
    path = tmp_path / "a.pt"
    keeps = b"".join(b"K\x07r" + n.to_bytes(4, "little") + b"0" for n in (2**32 - 1, 2**31, 7))
    path.write_bytes(torch_zip(b"\x80\x02" + keeps + b"j\xff\xff\xff\xff."))
    assert holdfast.load(path) == 7


def test_opcodes_are_no_more_than_the_bytes(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(torch_zip(b"\x80\x02" + b"N0" * 2_000_000 + b"K\x07."))
    assert holdfast.load(path) == 7
