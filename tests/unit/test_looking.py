from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from damaging import flip_first_byte
from safetensors.torch import save_file

import holdfast
from holdfast import looking
from holdfast.errors import (
    DamagedError,
    MissingPartError,
    NoCheckpointError,
    TruncatedError,
    UsageError,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"model": {"w": torch.ones(2, 3)}, "epoch": 7}, path)
    return path


def test_open_reads_headers_only(file) -> None:
    flip_first_byte(file)  # what is not read cannot be missed
    checkpoint = holdfast.open(file)
    assert checkpoint.path == file
    assert checkpoint.tree["epoch"] == 7
    assert checkpoint.tree["model"]["w"].shape == (2, 3)
    assert checkpoint.record is None
    assert checkpoint.index.format == "torch_zip"


def test_verify_reads_all(file) -> None:
    assert holdfast.verify(file).status == "good"
    flip_first_byte(file)
    report = looking.open(file).verify()
    assert (report.status, report.damages[0].tensors) == ("damaged", ("model.w",))


def test_a_path_may_be_a_run(tmp_path) -> None:
    model = torch.nn.Linear(2, 2)
    run = holdfast.Run(tmp_path / "run", model=model)
    for step in range(2):
        run.save(step, metrics={"loss": step})
    run.close()
    folder = tmp_path / "run"
    assert looking.open(folder).record.step == 1
    assert looking.open(f"{folder}@0").record.step == 0
    assert [path.name for path in looking.find(folder, "best:loss:min", 1)] == [
        "step-00000000.pt",
        "step-00000001.pt",
    ]


def test_a_summary_of_one_name(file) -> None:
    checkpoint = looking.open(file)
    assert [t.name for t in checkpoint.summary(name="model").tensors] == ["model.w"]
    with pytest.raises(MissingPartError):
        checkpoint.summary(name="optimizer")


def test_check_takes_errors_as_answers(file, tmp_path) -> None:
    assert looking.check(file).ok
    missing = looking.check(tmp_path / "missing.pt")
    assert not missing.ok
    assert isinstance(missing.error, NoCheckpointError)
    assert missing.to_text() == f"{tmp_path / 'missing.pt'}: {missing.error}"
    assert missing.to_json()["report"] is None
    file.write_bytes(file.read_bytes()[:-30])
    assert not looking.is_whole(file)


def test_check_does_not_take_a_wrong_call_as_an_answer(file) -> None:
    with pytest.raises(UsageError):
        looking.check(f"{file}@latest")


def test_one_tensor_is_read_and_no_other(tmp_path, monkeypatch):
    tensors = {f"layer.{n}": torch.randn(1000) for n in range(50)}
    torch.save(tensors, tmp_path / "a.pt")
    with holdfast.open(tmp_path / "a.pt") as checkpoint:
        read = []
        before = checkpoint.source.read_into
        monkeypatch.setattr(
            checkpoint.source,
            "read_into",
            lambda offset, view: (read.append(view.nbytes), before(offset, view)),
        )
        assert checkpoint.names() == list(tensors)
        assert not read
        found = checkpoint.array("layer.7")
        assert np.array_equal(found, tensors["layer.7"].numpy())
        assert sum(read) == 4000


def test_a_tensor_as_torch_has_it(tmp_path):
    model = torch.nn.Linear(2, 3).to(torch.bfloat16)
    torch.save(
        {"model": model.state_dict(), "array": np.arange(3), "n": np.float32(2)}, tmp_path / "a"
    )
    checkpoint = holdfast.open(tmp_path / "a")
    assert torch.equal(checkpoint.tensor("model.weight"), model.weight.detach())
    assert checkpoint.array("model.weight").dtype.name == "bfloat16"
    assert checkpoint.tensor("array").tolist() == [0, 1, 2]
    assert checkpoint.tensor("n").item() == 2


def test_a_file_cut_short_while_it_is_read_is_an_error_and_no_crash(tmp_path):
    """A mapping would end the process with SIGBUS here."""
    path = tmp_path / "a.pt"
    torch.save({"w": torch.randn(1 << 20)}, path)
    checkpoint = holdfast.open(path)
    os.truncate(path, 100_000)
    with pytest.raises(TruncatedError) as caught:
        checkpoint.array("w")
    assert str(caught.value).startswith(f"this file ends too early\n  in {path}\n")
    assert caught.value.found == "100,000 bytes"
    with pytest.raises(TruncatedError):
        checkpoint.tensor("w")
    with pytest.raises(TruncatedError):
        checkpoint.verify()


def written_by(form: str, path: Path) -> None:
    tensors = {"w": torch.randn(1000), "v": torch.randn(1000)}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_written_over_while_it_is_open_is_noticed_without_a_crc(tmp_path, form):
    path = tmp_path / "a"
    written_by(form, path)
    os.utime(path, (1, 1))  # so that no tick of the clock is too coarse
    with holdfast.open(path) as checkpoint:
        checkpoint.array("w")
        with path.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(100))
        for read in (checkpoint.array, checkpoint.tensor):
            with pytest.raises(DamagedError) as caught:
                read("w")
            assert str(caught.value) == (
                f"this file was changed while it was read\n  in {path}\n"
                "  Read it again when nobody writes to it any more."
            )
    written_by(form, path)
    os.utime(path, (1, 1))
    with holdfast.open(path) as checkpoint, path.open("ab") as file:
        file.write(b"more")
        file.flush()
        with pytest.raises(DamagedError, match="changed while it was read"):
            checkpoint.array("w")


def test_a_file_written_over_that_keeps_its_time_is_noticed_by_its_crc(tmp_path):
    path = tmp_path / "a.pt"
    written_by("zip", path)
    checkpoint = holdfast.open(path)
    extent, before = checkpoint.index.extents["1"], path.stat()
    with path.open("r+b") as file:
        file.seek(extent.offset)
        file.write(bytes(100))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    checkpoint.array("w")
    with pytest.raises(DamagedError) as caught:
        checkpoint.array("v")
    assert caught.value.tensor == "v"


def test_a_file_that_another_takes_the_name_of_stays_the_same(tmp_path):
    path, other = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"w": torch.ones(10)}, path)
    torch.save({"w": torch.zeros(10)}, other)
    with holdfast.open(path) as checkpoint:
        other.replace(path)
        assert checkpoint.array("w").sum() == 10
    assert holdfast.open(path).array("w").sum() == 0


def test_a_closed_checkpoint_says_so(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1)}, path)
    with holdfast.open(path) as checkpoint:
        pass
    checkpoint.close()
    with pytest.raises(UsageError) as caught:
        checkpoint.array("w")
    assert str(caught.value) == (
        "this checkpoint is closed: its tensors can be read no more\n"
        f"  in {path}\n"
        "  Read inside the with block, or open it again."
    )


def test_files_are_closed_with_the_last_reference(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    gc.collect()  # what other tests have left open must not be closed between the two counts
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        holdfast.open(tmp_path / "a.pt").array("w")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model", "model.weight, model.bias"),
        ("model.wieght", "model.weight, model.bias"),
        ("epoch", "a plain value: 3"),
    ],
)
def test_names_that_no_tensor_bears(name, found, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"model": torch.nn.Linear(1, 1).state_dict(), "epoch": 3}, path)
    with pytest.raises(MissingPartError) as caught:
        holdfast.open(path).array(name)
    assert str(caught.value) == (
        f"no tensor in this checkpoint is called {name!r}\n"
        f"  in {path}\n"
        f"  found {found}\n"
        "  checkpoint.names() lists all tensors; plain values are in checkpoint.tree."
    )


def test_a_model_pickled_whole_has_the_names_of_its_state_dict(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(model, tmp_path / "model.pt")
    checkpoint = holdfast.open(tmp_path / "model.pt")
    assert checkpoint.names() == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert np.array_equal(checkpoint.array(name), tensor.numpy())


def test_shapes_that_numpy_lacks_are_a_letter(tmp_path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros([1] * 70), "e": torch.empty(0, 1 << 62)}, path)
    with looking.open(path) as checkpoint:
        for name in ("w", "e"):
            for read in (checkpoint.array, checkpoint.text):
                with pytest.raises(UsageError, match="NumPy has no arrays of this shape"):
                    read(name)
        assert checkpoint.tensor("w").dim() == 70


def test_a_closed_checkpoint_is_neither_verified_nor_scanned(file) -> None:
    with looking.open(file) as checkpoint:
        pass
    for act in (checkpoint.verify, checkpoint.scan):
        with pytest.raises(UsageError, match="this checkpoint is closed"):
            act()


@pytest.mark.parametrize("name", [1, None, ["a"], b"a"])
def test_a_name_that_is_no_text(file, name) -> None:
    with looking.open(file) as checkpoint, pytest.raises(UsageError) as caught:
        checkpoint.array(name)
    assert "a tensor is asked for by its name" in str(caught.value)
