"""Any checkpoint as a folder of torch.distributed.checkpoint, and back."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import holdfast
from holdfast.converting import dcp_folder
from holdfast.errors import FileError, UsageError


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model, optimizer = trained()
    extra = {"odd": {1: torch.ones(3), 2: [(1, torch.zeros(2))]}, "array": np.arange(4)}
    holdfast.save_state(tmp_path / "a.pt", model=model, optimizer=optimizer, extra=extra)
    return tmp_path / "a.pt"


def test_there_and_back(file: Path, tmp_path: Path) -> None:
    """Everything is there, of its type; what was saved by names is loaded by names."""
    folder, back = tmp_path / "a.dcp", tmp_path / "b.pt"
    report = holdfast.convert(file, folder)
    assert (report.format_to, report.left_out, report.notes) == ("dcp", (), ())
    assert report.nbytes == sum(path.stat().st_size for path in folder.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == [
        ".metadata", "__0_0.distcp", "holdfast.json",
    ]  # fmt: skip
    assert holdfast.verify(folder).status == "good"
    assert holdfast.diff(file, folder).is_equal
    holdfast.convert(folder, back)
    assert holdfast.diff(file, back).is_equal
    for path in (folder, back):
        model, optimizer = trained()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        loaded = holdfast.load_state(path, model=model, optimizer=optimizer)
        assert repr(loaded.extra) == repr(holdfast.load_state(file, model=trained()[0]).extra)
        assert "by position" not in str(loaded)
        assert torch.equal(model[0].weight, trained()[0][0].weight)


def test_torch_opens_it(file: Path, tmp_path: Path) -> None:
    holdfast.convert(file, tmp_path / "a.dcp")
    model, optimizer = trained()
    live = {"model": {n: torch.zeros_like(t) for n, t in model.state_dict().items()}}
    dcp.load(live, checkpoint_id=tmp_path / "a.dcp", no_dist=True)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in live["model"].items())
    dcp_to_torch_save(tmp_path / "a.dcp", tmp_path / "c.pt")
    tree = torch.load(tmp_path / "c.pt", weights_only=True)
    state = optimizer.state_dict()["state"][0]
    assert torch.equal(tree["optimizer"]["state"]["0"]["exp_avg"], state["exp_avg"])
    assert tree["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert torch.equal(tree["extra"]["odd"][1], torch.ones(3))


def test_weights_alone(tmp_path: Path) -> None:
    """From safetensors, with another type and other names, and back."""
    tensors = {"enc.w": torch.randn(3, 5), "enc.b": torch.randn(5), "n": torch.arange(4)}
    save_file(tensors, tmp_path / "a.safetensors")
    report = holdfast.convert(
        tmp_path / "a.safetensors", tmp_path / "a.dcp", dtype="bf16", rename={"enc.": "e."}
    )
    assert sorted(item.name for item in report.items) == ["e.b", "e.w", "n"]
    holdfast.convert(tmp_path / "a.dcp", tmp_path / "b.safetensors")
    back = load_file(tmp_path / "b.safetensors")
    assert torch.equal(back["e.w"], tensors["enc.w"].bfloat16())
    assert torch.equal(back["n"], tensors["n"])


def _quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated
        return torch.quantize_per_tensor(torch.randn(4), 0.1, 2, torch.qint8)


VALUES = {
    "strided": torch.arange(12.0).reshape(3, 4).t(),
    "slice": torch.arange(100.0)[3:7],
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "half": torch.arange(5, dtype=torch.bfloat16),
    "eighth": torch.arange(5.0).to(torch.float8_e4m3fn),
    "complex": torch.complex(torch.ones(2), torch.zeros(2)),
    "conjugated": torch.complex(torch.ones(2), torch.ones(2)).conj(),
    "flags": torch.tensor([True, False]),
    "short": torch.tensor([1, 2, 65535], dtype=torch.uint16),
    "sparse": torch.eye(3).to_sparse(),
    "quantized": _quantized(),
    "parameter": nn.Parameter(torch.ones(2)),
    "expanded": torch.ones(1).expand(1000),
    "list": [torch.ones(1), 5, {"x": torch.zeros(2)}],
    "tuple": (torch.ones(1), "text", None),
    "plain": {"a": 1, "b": [1.5, "x"], "c": {}, "d": [], "e": None},
    "ordered": OrderedDict(b=torch.ones(1), a=2),
    "keys": {1: {"w": torch.ones(2)}, "x": torch.ones(1)},
    "ü . /": torch.ones(1),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value(name: str, tmp_path: Path) -> None:
    torch.save({name: VALUES[name], "other": 1}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")
    assert holdfast.verify(tmp_path / "a.dcp").status == "good"
    holdfast.convert(tmp_path / "a.dcp", tmp_path / "b.pt")
    first, second = (torch.load(tmp_path / f, weights_only=True) for f in ("a.pt", "b.pt"))
    assert_like(first, second)
    dcp_to_torch_save(tmp_path / "a.dcp", tmp_path / "c.pt")
    third = torch.load(tmp_path / "c.pt", weights_only=False)
    assert third["other"] == 1
    assert name in third


def assert_like(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.layout) == (b.dtype, b.shape, b.layout)
        if a.is_quantized:
            a, b = a.int_repr(), b.int_repr()
        if a.layout is torch.sparse_coo:
            a, b = a.to_dense(), b.to_dense()
        if a.dtype is torch.float8_e4m3fn:
            a, b = a.float(), b.float()
        assert torch.equal(a.resolve_conj(), b.resolve_conj())
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key, value in a.items():
            assert_like(value, b[key])
    elif isinstance(a, list | tuple):
        assert (type(a), len(a)) == (type(b), len(b))
        for one, other in zip(a, b, strict=True):
            assert_like(one, other)
    else:
        assert a == b


def test_two_places_of_one_name_are_refused(tmp_path: Path) -> None:
    tree = {"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.zeros(1)}}
    torch.save(tree, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")
    assert "two places in the checkpoint have the name 'a.b.c'" in str(caught.value)
    assert not (tmp_path / "a.dcp").exists()


def test_what_is_there_stays(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.dcp").mkdir()
    (tmp_path / "a.dcp" / "mine").write_text("text")
    with pytest.raises(FileError, match="something is there already"):
        holdfast.convert(file, tmp_path / "a.dcp")
    holdfast.convert(file, tmp_path / "b.dcp", dry_run=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dcp", "a.pt"]


def test_damage_leaves_nothing(file: Path, tmp_path: Path) -> None:
    with holdfast.open(file) as checkpoint:
        place = next(iter(checkpoint.index.extents.values())).offset
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(holdfast.errors.DamagedError):
        holdfast.convert(file, tmp_path / "a.dcp")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_memory_does_not_grow_with_the_file_and_torch_is_not_needed(tmp_path: Path) -> None:
    torch.save({f"w{n}": torch.full((1 << 22,), float(n)) for n in range(12)}, tmp_path / "a.pt")
    code = """
import sys
import holdfast
holdfast.convert(sys.argv[1], sys.argv[2])
assert "torch" not in sys.modules
text = open("/proc/self/status").read()
print(int(text.split("VmHWM:")[1].split()[0]) >> 10)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.pt"), str(tmp_path / "a.dcp")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150  # of a file of 192 MiB
    assert holdfast.verify(tmp_path / "a.dcp").ok


def test_more_than_can_be_read_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.ones(1), "b": torch.ones(1), "c": 3}, tmp_path / "a.pt")
    monkeypatch.setattr(dcp_folder, "MOST_ENTRIES", 2)
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "a.dcp")
    assert str(caught.value) == (
        "such a folder cannot hold all of this checkpoint\n"
        f"  in {tmp_path}/a.pt\n"
        "  wanted at most 2 tensors and values\n"
        "  Take one part: --part; or convert to .pt."
    )
    assert not (tmp_path / "a.dcp").exists()
