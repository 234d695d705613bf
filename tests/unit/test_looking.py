from __future__ import annotations

from pathlib import Path

import pytest
import torch

import holdfast
from holdfast import looking
from holdfast.errors import MissingPartError, NoCheckpointError, UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    torch.save({"model": {"w": torch.ones(2, 3)}, "epoch": 7}, path)
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[looking.open(path).index.extents["0"].offset] ^= 1
    path.write_bytes(data)


def test_open_reads_headers_only(file) -> None:
    flip(file)  # what is not read cannot be missed
    checkpoint = holdfast.open(file)
    assert checkpoint.path == file
    assert checkpoint.tree["epoch"] == 7
    assert checkpoint.tree["model"]["w"].shape == (2, 3)
    assert checkpoint.record is None
    assert checkpoint.index.format == "torch_zip"


def test_verify_reads_all(file) -> None:
    assert holdfast.verify(file).status == "good"
    flip(file)
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
    assert missing.to_text() == str(missing.error)
    assert missing.to_json()["report"] is None
    file.write_bytes(file.read_bytes()[:-30])
    assert not looking.is_whole(file)


def test_check_does_not_take_a_wrong_call_as_an_answer(file) -> None:
    with pytest.raises(UsageError):
        looking.check(f"{file}@latest")
