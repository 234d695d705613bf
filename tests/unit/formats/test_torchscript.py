from __future__ import annotations

import io
import zipfile

import pytest
import torch
from tests.unit.formats.programs import scripted

import holdfast
from holdfast.errors import FormatError, NotACheckpointError, RefusedError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.spec.index import TensorRef
from holdfast.tensors.load import load_file

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
]


@pytest.fixture(scope="module")
def program() -> bytes:
    return scripted(_extra_files={"note.txt": "hello", "blob.bin": b"\xff\xfe", "deep/x": "1"})


@pytest.fixture
def path(program, tmp_path):
    path = tmp_path / "net.pt"
    path.write_bytes(program)
    return path


def index_of(data: bytes):
    with open_source(io.BytesIO(data)) as source:
        return read_index(source)


def test_names_and_values_are_those_of_the_state_dict(path):
    wanted = torch.jit.load(path).state_dict()
    with holdfast.open(path) as checkpoint:
        assert set(wanted) <= set(checkpoint.names())
        for name, tensor in wanted.items():
            assert torch.equal(checkpoint.tensor(name), tensor)
            assert checkpoint.array(name).shape == tuple(tensor.shape)
        # Tensors that are plain attributes are in the file too, as only its code tells them apart.
        more = set(checkpoint.names()) - set(wanted)
        assert more == {"inner.shift", "inner.tensors.0"}


def test_plain_attributes_are_kept_as_they_were(path):
    inner = holdfast.load(path)["inner"]
    assert inner["names"] == ["a", "b"]
    assert (inner["sizes"], inner["rates"], inner["flags"]) == ([1, 2], [0.5], [True])
    assert (inner["limits"], inner["pair"]) == ({"x": 1.5}, (1, "z"))
    assert inner["training"] is False


def test_what_is_tied_shares_its_storage(path):
    loaded = holdfast.load(path)
    one, other = loaded["inner"]["linear"]["weight"], loaded["tied"]["weight"]
    assert one.data_ptr() == other.data_ptr()
    assert one.requires_grad


def test_code_is_named_and_extra_files_are_text(program):
    index = index_of(program)
    assert index.format == "torchscript"
    assert "code/__torch__/tests/unit/formats/programs.py" in index.programs
    assert all(name.startswith("code/") for name in index.programs)
    assert index.metadata == {"note.txt": "hello", "blob.bin": "(2 bytes)", "deep/x": "1"}
    assert index.symbols == ()
    assert index.notes == (
        "a program of class __torch__.tests.unit.formats.programs.Net: its code is not run",
    )


def test_a_frozen_program_has_tensors_without_names(tmp_path):
    data = scripted(freeze=True)
    index = index_of(data)
    assert list(index.tree) == ["constants"]
    assert all(isinstance(each, TensorRef) for each in index.tree["constants"])
    assert index.notes[1] == (
        "its tensors are constants of its code and bear no names, as those of a frozen program"
    )
    assert {key.partition("/")[0] for key in index.extents} == {"constants"}


def test_verify_covers_compressed_members_too(path, program):
    with holdfast.open(path) as checkpoint:
        report = checkpoint.verify()
        assert report.status == "good"
        packed = [extent for extent in checkpoint.index.other if extent.is_deflated]
    assert packed
    for offset in range(packed[0].nbytes - 1):  # the last byte may end in bits that mean nothing
        broken = bytearray(program)
        broken[packed[0].offset + offset] ^= 0x10
        path.write_bytes(broken)
        report = holdfast.verify(path)
        assert report.status == "damaged"
        assert [damage.member for damage in report.damages] == [packed[0].member]
        assert packed[0].member in report.to_text()


def test_quantized_tensors_of_a_program():
    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            made = torch.quantize_per_tensor(torch.ones(3), 0.1, 2, torch.quint8)
            self.register_buffer("q", made)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.q.dequantize()

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Packed()), buffer)
    wanted = torch.jit.load(io.BytesIO(buffer.getvalue())).q.dequantize()
    assert torch.equal(load_file(io.BytesIO(buffer.getvalue()))["q"].dequantize(), wanted)


def test_an_old_program_says_how_to_write_it_anew():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("version", "model.json", "tensors/0", "code/m.py"):
            archive.writestr(f"net/{name}", b"1\n")
    with pytest.raises(NotACheckpointError) as caught:
        index_of(buffer.getvalue())
    assert caught.value.what == "this is a TorchScript program of torch before 1.4"
    assert "torch.jit.save" in caught.value.cure


def test_a_program_without_its_pickle(program):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("/data.pkl"):
                new.writestr(info, old.read(info))
    with pytest.raises(FormatError, match="lacks the pickle that says what it holds"):
        index_of(buffer.getvalue())


def test_other_files_may_not_call_what_programs_call():
    pickle = b"\x80\x02ctorch.jit._pickle\nbuild_intlist\n]\x85R."
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
        archive.writestr("a/version", b"3\n")
    assert index_of(buffer.getvalue()).symbols == ("torch.jit._pickle.build_intlist",)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("a/constants.pkl", b"\x80\x02).")
    with pytest.raises(FormatError, match="holds no module") as caught:
        index_of(buffer.getvalue())
    assert not isinstance(caught.value, RefusedError)
