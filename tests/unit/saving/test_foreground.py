"""Where an encoded object goes: a path, a binary file object, and nothing else."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import torch

from holdfast.errors import UsageError
from holdfast.saving.foreground import save_encoded, warn_of_slices
from holdfast.tensors.encode import encode


def test_a_file_object_gets_the_bytes_at_its_position(tmp_path: Path) -> None:
    encoded = encode({"a": torch.ones(3)})
    whole = io.BytesIO()
    save_encoded(encoded, whole)
    with (tmp_path / "behind").open("wb") as file:
        file.write(b"before")
        info = save_encoded(encoded, file)
    assert (tmp_path / "behind").read_bytes() == b"before" + whole.getvalue()
    assert info.path is None
    assert info.nbytes == len(whole.getvalue())


def test_a_text_file_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "text").open("w") as file, pytest.raises(UsageError) as caught:
        save_encoded(encode([1]), file)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "save() writes to a path or a binary file object\n"
        "  found _io.TextIOWrapper\n"
        '  Open the file in binary mode: open(path, "wb").'
    )


@pytest.mark.parametrize("target", [3, None, ["a.pt"]])
def test_other_targets_are_errors(target: object) -> None:
    with pytest.raises(UsageError, match="a path or a binary file object"):
        save_encoded(encode([1]), target)  # type: ignore[arg-type]


def test_the_record_lies_behind_the_last_storage_and_torch_ignores_it(tmp_path: Path) -> None:
    save_encoded(encode({"a": torch.arange(3)}), tmp_path / "a.pt", record=b'{"holdfast": 1}')
    data = (tmp_path / "a.pt").read_bytes()
    assert data.index(b"a/data/0") < data.index(b"a/holdfast.json") < data.index(b"a/version")
    for options in ({}, {"mmap": True}, {"map_location": "meta"}):
        assert torch.load(tmp_path / "a.pt", **options)["a"].shape == (3,)


def test_a_slice_that_drags_its_storage_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        state = {"row": torch.zeros(1000, 1000)[3], "whole": torch.ones(5)}
        warn_of_slices(encode(state, notes_views=True))
    [record] = caplog.records
    assert record.getMessage() == (
        "1 saved storages are larger than the views of them: 4,000,000 bytes are written where "
        "4,000 are referred to, as torch.save does. Save view.clone() to write only the view."
    )


def test_half_a_storage_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_slices(encode(torch.zeros(1000)[:500], notes_views=True))
    assert not caplog.records
