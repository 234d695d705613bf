from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch

from holdfast.errors import NotACheckpointError, RefusedError, TruncatedError
from holdfast.formats import read_index, sniff
from holdfast.io.source import open_source


def written(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def tar(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names or ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
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
    "tar": (lambda: tar("a.txt"), "a tar archive"),
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
    "zeros": (
        lambda: bytes(5000),
        "a file of zero bytes: a write or a download that never came to its end",
    ),
    "text": (lambda: b"step,loss\n1,0.5\n", "no kind of file that holdfast knows"),
    "one byte": (lambda: b"P", "no kind of file that holdfast knows"),
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


def exported(file) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),)), file)


def onnx_model() -> bytes:
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    graph = onnx.helper.make_graph([], "g", [], [], [weight])
    model: bytes = onnx.helper.make_model(graph).SerializeToString()
    return model


FORMATS = {
    "torch_zip": lambda: written(lambda f: torch.save([1], f)),
    "torch_legacy": legacy,
    "torch_tar": tar,
    "torchscript": lambda: written(script),
    "exported": lambda: written(exported),
    "safetensors": lambda: safetensors.numpy.save({"a": np.zeros(3)}),
    "onnx": onnx_model,
    "gzip": lambda: gzip.compress(b"x"),
    "pickle": lambda: pickle.dumps({"a": 1}),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".tar.gz", ""])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_is_told_by_its_bytes_and_never_by_the_suffix(kind, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(FORMATS[kind]())
    with open_source(path) as source:
        assert sniff.kind_of(source)[0] == kind


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_no_format_fits_two(kind):
    assert len(sniff._kinds_of(FORMATS[kind]()[: sniff.HEAD])) == 1


def test_no_length_of_a_safetensors_header_looks_like_another_file():
    lengths = (*range(8, 1 << 20, 8), *range(1 << 20, sniff.LONGEST_JSON, 40_008))
    for nbytes in (25640, 33558, 640, 1408, 559_903 + 1, 0x120708, *lengths):
        head = nbytes.to_bytes(8, "little") + b'{"a.weight":{"dtype":"F32",'
        assert sniff._kinds_of(head) == ["safetensors"], nbytes


def polyglots():
    json_head = b'{"__metadata__":{"a":"'
    safe = len(json_head).to_bytes(8, "little") + json_head
    tarred = bytearray(tar().ljust(512))
    tarred[:9] = (500).to_bytes(8, "little") + b"{"
    return {
        "zip and safetensors": int.from_bytes(b"PK\x03\x04", "little").to_bytes(8, "little") + b"{",
        "zip and torch_tar": b"PK\x03\x04" + tar()[4:],
        "safetensors and torch_tar": bytes(tarred),
        # A float whose eight bytes go beyond the zeros, and a string that hides the rest.
        "safetensors and pickle": b"\x80\x02G\x00\x00\x00\x00\x00" + safe[8:],
        "safetensors and onnx": b"\x08\x07\x12\x05\x00\x00\x00\x00" + safe[8:],
        "torch_tar and gzip": b"\x1f\x8b\x08" + tar()[3:],
        "torch_tar and pickle": b"\x80\x02" + tar()[2:],
    }


@pytest.mark.parametrize("kinds", polyglots())
def test_a_file_of_two_formats_is_refused(kinds):
    data = io.BytesIO(polyglots()[kinds])
    with open_source(data) as source, pytest.raises(RefusedError) as caught:
        read_index(source)
    assert str(caught.value) == (
        "refused: a file is of one format\n"
        "  in <BytesIO>\n"
        f"  found {kinds}\n"
        "  It was made so that two programs see two different files in it."
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
