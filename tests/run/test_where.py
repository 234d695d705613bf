"""Where a path is taken: a file, RUN, RUN@best:loss, RUN@100; and reading leaves no trace."""

from __future__ import annotations

import pytest
import torch

import holdfast
from holdfast.errors import NoCheckpointError, UsageError


@pytest.fixture
def folder(begun):
    """Steps 0 to 4, the best (loss 0.5) being 2, the newer of two."""
    return begun(keep=holdfast.keep.latest(9) | holdfast.keep.best("loss"))


def load_state(path):
    return holdfast.load_state(path, model=torch.nn.Linear(3, 2)).step


def start_from(path, tmp_path):
    run = holdfast.Run(tmp_path / "new", model=torch.nn.Linear(3, 2), start_from=path)
    return run.resume() - 1


READERS = {
    "load_state": lambda path, tmp_path: load_state(path),
    "open": lambda path, tmp_path: holdfast.open(path).record.step,
    "verify": lambda path, tmp_path: int(holdfast.verify(path).file[-5:-3]),
    "load": lambda path, tmp_path: holdfast.load(path)["scheduler"]["last_epoch"] - 1,
    "start_from": start_from,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("which", "step"),
    [
        ("/step-00000001.pt", 1),
        ("", 4),
        ("@latest", 4),
        ("@best:loss", 2),
        ("@best:loss:max", 4),
        ("@3", 3),
        ("@step-00000000", 0),
    ],
)
def test_every_reader_takes_every_way(folder, tmp_path, reader, which, step):
    for path in (f"{folder}{which}", type(folder)(f"{folder}{which}")):
        assert READERS[reader](path, tmp_path) == step


@pytest.mark.parametrize("reader", READERS)
def test_a_step_that_is_not_there_is_an_error(folder, tmp_path, reader):
    with pytest.raises(NoCheckpointError) as caught:
        READERS[reader](f"{folder}@9", tmp_path)
    assert str(caught.value) == (
        "there is no checkpoint of step 9\n"
        f"  in {folder}\n"
        "  found steps 1, 2, 3, 4 (and 1 more)\n"
        f"  List them all: holdfast list {folder}"
    )


@pytest.mark.parametrize("reader", READERS)
def test_a_path_to_nothing_is_an_error_and_makes_nothing(tmp_path, reader):
    with pytest.raises(NoCheckpointError) as caught:
        READERS[reader](str(tmp_path / "nothing"), tmp_path)
    assert str(caught.value) == (
        "there is no such file or folder\n"
        f"  in {tmp_path / 'nothing'}\n"
        "  A path is a file, a checkpoint folder, RUN, RUN@best:METRIC or RUN@STEP."
    )
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_folder_is_an_error(tmp_path, reader):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoCheckpointError) as caught:
        READERS[reader](str(tmp_path / "empty"), tmp_path)
    assert str(caught.value) == (
        "there is no checkpoint in this folder\n"
        f"  in {tmp_path / 'empty'}\n"
        "  Is it the right folder? A run saves its first checkpoint with run.save()."
    )
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_file_has_no_others_to_choose_from(folder, tmp_path):
    for reader in READERS.values():
        with pytest.raises(UsageError) as caught:
            reader(f"{folder}/step-00000001.pt@best:loss", tmp_path)
        assert str(caught.value) == (
            "one checkpoint has no others to choose from\n"
            f"  in {folder}/step-00000001.pt\n"
            "  found @best:loss\n"
            "  Give the run folder before the @, or leave the @ out."
        )


def test_reading_takes_no_lock_and_makes_nothing(folder, tmp_path, at):
    before = at.names(folder)
    (folder / ".lock").unlink()
    for reader in READERS.values():
        reader(str(folder), tmp_path)
    run = holdfast.Run(folder, keep=holdfast.keep.latest(1))
    (
        run.checkpoints(),
        run.latest(),
        run.best("loss"),
        run.prune(),
        run.load(model=torch.nn.Linear(3, 2)),
    )
    assert not (folder / ".lock").exists()
    assert at.names(folder) == before


def test_reading_goes_on_while_another_run_writes(folder, at):
    training = at.Training()
    with training.run(folder, keep=None) as writer:
        writer.resume()
        reader = holdfast.Run(folder)
        assert reader.latest().step == 4
        writer.save(5)
        assert reader.latest().step == 5
        assert load_state(f"{folder}@5") == 5
        writer.save(6)


def test_a_run_that_is_not_there_reads_as_empty(tmp_path):
    run = holdfast.Run(tmp_path / "nothing")
    assert run.checkpoints() == []
    assert run.latest() is None
    for act in (lambda: run.best("loss"), lambda: run.load(model=torch.nn.Linear(1, 1))):
        with pytest.raises(NoCheckpointError):
            act()
    assert not (tmp_path / "nothing").exists()
