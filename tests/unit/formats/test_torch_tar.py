"""The oldest files: written by hand, read by torch, which still can, and by us."""

from __future__ import annotations

import io
import pickle
import tarfile

import pytest
import torch
from tests.hostile.conftest import Assembler
from tests.unit.formats.old_writers import Tar, archive
from tests.unit.formats.test_torch_legacy import floats
from tests.unit.tensors.test_load_like_torch import same

from holdfast.errors import NotACheckpointError
from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.verify import verify_index
from holdfast.spec.index import StorageRef
from holdfast.tensors.load import load_file

ASM = Assembler()
ROOT, VIEW, GRID, PART = 94022, 94033, 94044, 94055


def said(key: int, *more) -> bytes:
    return ASM.pickle((key, *more))


def persistent(key) -> bytes:
    return ASM.raw(ASM.ops(key) + b"Q")


def example() -> Tar:
    """A storage, a view of it, a tensor of each, and a dict that holds all four."""
    made = Tar()
    made.storages = [(said(ROOT, "cpu", ASM.sym("torch", "FloatStorage")), *floats(*range(8)))]
    made.views = [(VIEW, ROOT, 2, 5)]
    made.tensors = [
        (said(GRID, ROOT, ASM.sym("torch", "FloatTensor")), (2, 4), (4, 1), 0),
        (said(PART, VIEW, ASM.sym("torch", "FloatTensor")), (2, 2), (1, 2), 1),
    ]
    tree = {
        "grid": persistent(GRID),
        "part": persistent(PART),
        "again": persistent(GRID),
        "root": persistent(ROOT),
        "view": persistent(VIEW),
        "epoch": 3,
    }
    made.pickle = ASM.pickle(tree)
    return made


def index_of(data: bytes):
    with open_source(io.BytesIO(data)) as source:
        return read_index(source)


def both(data: bytes, tmp_path):
    """What we give, and what torch gives, which reads them from a path only."""
    path = tmp_path / "oldest.pth"
    path.write_bytes(data)
    return load_file(path), torch.load(path, weights_only=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_torch_reads(tmp_path):
    ours, theirs = both(bytes(example()), tmp_path)
    for name in ("grid", "part"):
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].stride() == theirs[name].stride()
        assert ours[name].tolist() == theirs[name].tolist()
    assert same([ours["root"], ours["view"], ours["epoch"]],
                [theirs["root"], theirs["view"], 3])  # fmt: skip
    assert ours["part"].tolist() == [[3, 5], [4, 6]]
    assert ours["again"] is ours["grid"]
    for loaded in (ours, theirs):  # all share memory
        loaded["grid"][0, 3] = 9
        assert loaded["part"][0, 0] == 9


CLASSES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_type_of_its_time(tmp_path):
    made = Tar()
    for number, (name, dtype) in enumerate(CLASSES.items()):
        data = torch.arange(3).to(dtype).numpy().tobytes()
        made.storages.append((said(number, "cpu", ASM.sym("torch", name)), 3, data))
        tensor = ASM.sym("torch", name.replace("Storage", "Tensor"))
        made.tensors.append((said(100 + number, number, tensor), (3,), (1,), 0))
    made.pickle = ASM.pickle([persistent(100 + number) for number in range(len(CLASSES))])
    ours, theirs = both(bytes(made), tmp_path)
    assert same(ours, theirs)
    assert [tensor.dtype for tensor in ours] == list(CLASSES.values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_keys_as_text_and_ids_of_protocol_0(tmp_path):
    made = example()
    made.pickle = b"(lp0\nP%d\naP%d\na." % (GRID, PART)
    ours, theirs = both(bytes(made), tmp_path)
    assert [t.tolist() for t in ours] == [t.tolist() for t in theirs]


def test_a_class_keeps_its_text():
    made = example()
    cls = ASM.raw(ASM.ops((ASM.sym("any.module", "Net"), "net.py", "class Net: pass")) + b"Q")
    made.pickle = ASM.pickle(ASM.build(ASM.new(cls), {"weight": persistent(GRID)}))
    node = index_of(bytes(made)).tree
    assert (node.symbol, node.source) == ("any.module.Net", "class Net: pass")
    assert node.state["weight"].shape == (2, 4)


def test_an_empty_tensor_had_no_axes_then():
    made = example()
    made.storages.append((said(1, "cpu", ASM.sym("torch", "LongStorage")), 0, b""))
    made.tensors.append((said(2, 1, ASM.sym("torch", "LongTensor")), (), (), 0))
    made.pickle = ASM.pickle(persistent(2))
    assert load_file(io.BytesIO(bytes(made))).shape == (0,)


def test_the_index_says_where_everything_lies():
    data = bytes(example())
    index = index_of(data)
    assert (index.format, index.byteorder, index.symbols) == ("torch_tar", "little", ())
    root, view = index.extents[str(ROOT)], index.extents[str(VIEW)]
    assert data[root.offset : root.offset + root.nbytes] == floats(*range(8))[1]
    assert (view.offset - root.offset, view.nbytes) == (8, 20)
    assert type(index.tree["view"]) is StorageRef
    assert index.tree["part"].storage == index.tree["grid"].storage
    assert [extent.member for extent in index.other] == ["tensors", "pickle"]
    with open_source(io.BytesIO(data)) as source:
        assert verify_index(index, source).status == "unknown"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar(form):
    data = archive({"a/" * 60 + "more": b"x", **example().members()}, form=form)
    assert load_file(io.BytesIO(data))["epoch"] == 3


def test_what_follows_the_pickle_is_a_note():
    members = example().members()
    members["pickle"] += b"more"
    assert index_of(archive(members)).notes == ("4 bytes follow the pickle",)


def test_an_archive_of_something_else():
    with pytest.raises(NotACheckpointError) as caught:
        index_of(archive({"readme.txt": b"hello", "storages": b""}))
    assert str(caught.value) == (
        "this is a tar archive\n  in <BytesIO>\n  Unpack it first: tar -xf FILE"
    )


def test_an_archive_with_checkpoints_in_it_names_them():
    buffer = io.BytesIO()
    torch.save([1], buffer)
    members = {"model.bin": buffer.getvalue(), "readme.txt": b"hello", "old": pickle.dumps([1], 2)}
    with pytest.raises(NotACheckpointError) as caught:
        index_of(archive(members))
    assert str(caught.value) == (
        "this is a tar archive with checkpoints in it\n"
        "  in <BytesIO>\n"
        "  found model.bin (torch_zip), old (pickle)\n"
        "  Unpack it first: tar -xf FILE"
    )
    many = {f"{number}.pt": buffer.getvalue() for number in range(7)}
    with pytest.raises(NotACheckpointError, match=r"4.pt \(torch_zip\), and 2 more"):
        index_of(archive(many))
