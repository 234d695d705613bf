from __future__ import annotations

import zlib

import pytest
import torch

from holdfast.benchmark import limits, page_cache
from holdfast.io.arena import SEGMENT


@pytest.fixture(scope="module")
def buffers() -> limits.Buffers:
    return limits.Buffers()


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 10_001, 3 * SEGMENT + 5])
def test_the_plain_write_writes_it_all(nbytes, tmp_path, buffers) -> None:
    path = tmp_path / "plain"
    limits.write_plain(path, nbytes, buffers)
    assert path.stat().st_size == nbytes
    one, two = (bytes(segment) for segment in buffers.segments)
    assert path.read_bytes() == (one + two + one + two)[:nbytes]


def test_the_plain_write_takes_fresh_names_only(tmp_path, buffers) -> None:
    (tmp_path / "old").write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        limits.write_plain(tmp_path / "old", 10, buffers)
    assert (tmp_path / "old").read_bytes() == b"kept"


@pytest.mark.parametrize("past_cache", [True, False])
def test_the_plain_read_reads_it_all(past_cache, tmp_path) -> None:
    buffers = limits.Buffers()
    path = tmp_path / "file"
    path.write_bytes(b"\1" * (SEGMENT + 77) + b"\2" * 77)
    limits.read_plain(path, buffers, past_cache=past_cache)
    assert bytes(buffers.segments[0]) == b"\1" * SEGMENT
    assert bytes(buffers.segments[1][:154]) == b"\1" * 77 + b"\2" * 77


def test_a_copy_is_equal(workload) -> None:
    tensors = list(workload.tensors().values())
    copy = limits.Copy(tensors)
    for target in copy.targets:
        target.zero_()
    copy()
    assert all(map(torch.equal, tensors, copy.targets))


def test_the_crc_is_that_of_all_bytes(workload) -> None:
    tensors = list(workload.tensors().values())
    data = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
    assert limits.crc_of(tensors) == zlib.crc32(data)


def test_a_file_goes_into_the_page_cache_and_out(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    page_cache.warm(path)
    assert page_cache.drop(path) in (True, False)  # a tmpfs cannot
    assert path.read_bytes() == b"x" * 100_000
