from __future__ import annotations

import errno
import os
import stat

import pytest

from holdfast.errors import FileError, NoCheckpointError
from holdfast.runs import pins
from holdfast.runs.pins import is_pinned, pin, pin_of, unpin


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "step-00000100.pt"
    path.write_bytes(b"bytes")
    return path


def test_a_pin_is_an_empty_file_beside_the_checkpoint(checkpoint):
    assert not is_pinned(checkpoint)
    pin(checkpoint)
    pin(checkpoint)
    assert is_pinned(checkpoint)
    assert (checkpoint.parent / "step-00000100.pin").read_bytes() == b""
    unpin(checkpoint)
    unpin(checkpoint)
    assert not is_pinned(checkpoint)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step-00000100.pt"]


def test_a_pin_that_was_not_synced_is_synced_by_the_next_try(checkpoint, monkeypatch):
    """Its maker may have been killed; or the sync failed, and then it is made anew."""
    pin_of(checkpoint).touch()
    synced = []
    monkeypatch.setattr(pins, "fsync_folder", synced.append)
    pin(checkpoint)
    assert synced == [checkpoint.parent]


def test_a_pin_whose_sync_fails_is_not_there(checkpoint, monkeypatch):
    def refuse(_folder):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(pins, "fsync_folder", refuse)
        with pytest.raises(FileError, match="could not be pinned: Input/output error"):
            pin(checkpoint)
        assert not is_pinned(checkpoint)
        pin_of(checkpoint).touch()
        with pytest.raises(FileError):
            pin(checkpoint)
        assert is_pinned(checkpoint)  # it was another's
    pin(checkpoint)
    assert is_pinned(checkpoint)


@pytest.mark.parametrize("change", [pin, unpin])
def test_a_pin_is_durable_when_the_call_returns(checkpoint, monkeypatch, change):
    if change is unpin:
        pin(checkpoint)
    synced = []

    def fsync(fd, real=os.fsync):
        synced.append((stat.S_ISDIR(os.fstat(fd).st_mode), is_pinned(checkpoint)))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    change(checkpoint)
    assert synced == [(True, change is pin)]


def test_what_is_not_there_cannot_be_pinned(tmp_path):
    with pytest.raises(NoCheckpointError) as caught:
        pin(tmp_path / "step-1.pt")
    assert str(caught.value) == (
        f"there is no such checkpoint to pin\n  in {tmp_path / 'step-1.pt'}"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pin_without_its_checkpoint_can_be_removed(checkpoint):
    pin(checkpoint)
    checkpoint.unlink()
    unpin(checkpoint)
    assert list(checkpoint.parent.iterdir()) == []


def test_what_the_system_refuses_is_a_letter(checkpoint):
    pin_of(checkpoint).mkdir()
    with pytest.raises(FileError) as caught:
        unpin(checkpoint)
    assert caught.value.errno in (errno.EISDIR, errno.EPERM)
    assert str(caught.value) == (
        f"the checkpoint could not be unpinned: {os.strerror(caught.value.errno)}\n"
        f"  in {checkpoint}\n"
        f"  Check who owns the folder and its permissions: ls -ld {checkpoint.parent}"
    )


def test_a_read_only_file_system_is_said_to_be_one(checkpoint, monkeypatch):
    def read_only(_folder):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(pins, "fsync_folder", read_only)
    with pytest.raises(FileError) as caught:
        pin(checkpoint)
    assert str(caught.value) == (
        "the checkpoint could not be pinned: Read-only file system\n"
        f"  in {checkpoint}\n"
        "  The file system is mounted read-only: save somewhere else, or remount it."
    )
