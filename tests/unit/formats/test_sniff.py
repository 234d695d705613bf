from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

from holdfast.errors import NotACheckpointError, TruncatedError
from holdfast.formats import read_index
from holdfast.io.source import open_source


def written(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return buffer.getvalue()


def legacy() -> bytes:
    return written(lambda f: torch.save([1], f, _use_new_zipfile_serialization=False))


def script(file) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)


KINDS = {
    "empty": (lambda: b"", "an empty file"),
    "legacy": (legacy, "a legacy torch file (from before torch 1.6)"),
    "gzip": (lambda: gzip.compress(b"x"), "a gzip file"),
    "tar": (tar, "a tar archive"),
    "safetensors": (
        lambda: safetensors.numpy.save({"a": np.zeros(3)}),
        "a safetensors file",
    ),
    "npy": (lambda: written(lambda f: np.save(f, np.zeros(3))), "a NumPy array (.npy)"),
    "npz": (lambda: written(lambda f: np.savez(f, a=np.zeros(3))), "a NumPy archive (.npz)"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file (Keras and others)"),
    "gguf": (lambda: b"GGUF" + bytes(99), "a GGUF file (llama.cpp)"),
    "html": (
        lambda: b"\n<!DOCTYPE html><html>Not found</html>",
        "a web page, not the file that was to be downloaded",
    ),
    "lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a Git LFS pointer, not the file itself",
    ),
    "pickle": (
        lambda: pickle.dumps({"a": 1}),
        "a plain pickle, without tensors as torch.save writes them",
    ),
    "zeros": (
        lambda: bytes(5000),
        "a file of zero bytes: a write or a download that never came to its end",
    ),
    "text": (lambda: b"step,loss\n1,0.5\n", "no kind of file that holdfast knows"),
    "one byte": (lambda: b"P", "no kind of file that holdfast knows"),
    "TorchScript": (lambda: written(script), "a TorchScript program, not a checkpoint"),
    "pt2": (
        lambda: zipped("m/archive_format", "m/data/weights/weight_0"),
        "a program of torch.export (.pt2), not a checkpoint",
    ),
    "docx": (lambda: zipped("[Content_Types].xml", "word/x"), "a zip archive without a checkpoint"),
    "empty zip": (lambda: zipped(), "an empty zip archive"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_of_files_are_told_by_their_bytes(kind, tmp_path):
    make, what = KINDS[kind]
    path = tmp_path / "checkpoint.pt"  # the suffix means nothing
    path.write_bytes(make())
    with open_source(path) as source, pytest.raises(NotACheckpointError) as caught:
        read_index(source)
    assert caught.value.what == f"this is {what}"
    assert caught.value.file == str(path)
    assert caught.value.cure


def test_the_letter_about_a_legacy_file(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(legacy())
    with open_source(path) as source, pytest.raises(NotACheckpointError) as caught:
        read_index(source)
    assert str(caught.value) == (
        "this is a legacy torch file (from before torch 1.6)\n"
        f"  in {path}\n"
        "  Save it anew with the torch that made it: torch.save(torch.load(path), new_path)."
    )


def test_a_checkpoint_with_another_suffix_is_one(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"a": 1}, path)
    with open_source(path) as source:
        assert read_index(source).tree == {"a": 1}


def test_a_zip_that_was_cut_off_is_truncated_and_not_another_kind():
    data = written(lambda f: torch.save([1], f))
    with open_source(io.BytesIO(data[:100])) as source, pytest.raises(TruncatedError):
        read_index(source)
