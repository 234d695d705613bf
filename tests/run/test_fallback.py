"""resume() goes back past what is damaged, says which and why, and goes on from there."""

from __future__ import annotations

import os

import pytest
import torch

import holdfast
from holdfast.errors import FormatError, HoldfastError, MismatchError, NoCheckpointError

HARMS = ["damage", "truncate", "empty", "garbage"]


def weights_of(path):
    return torch.load(path, weights_only=True)["model"]["weight"]


@pytest.mark.parametrize("harm", HARMS)
def test_pain_05_the_newest_incomplete_so_the_one_before_is_taken(begun, at, log, harm):
    """transformers #35782, #35525: auto-resume died instead."""
    folder = begun()
    newest = at.file(folder, 4)
    getattr(at, harm)(newest)
    harmed = newest.read_bytes()
    log.clear()
    training = at.Training()
    run = training.run(folder, keep=None)
    assert run.resume() == 4
    assert torch.equal(training.weights(), weights_of(at.file(folder, 3)))
    warnings = log.lines()
    assert len(warnings) == 2
    kind = "restored" if harm == "damage" else "read"
    assert warnings[0].startswith(f"skipped {newest}, which cannot be {kind}: ")
    assert warnings[1] == f"went back to {at.file(folder, 3)} (step 3)"
    # The name is never used again, and the file stays as it is.
    run.save(4)
    assert at.names(folder)[-2:] == ["step-00000004.2.pt", "step-00000004.pt"]
    assert newest.read_bytes() == harmed
    assert at.record(folder / "step-00000004.2.pt")["sequence"] == 5
    assert at.Training().run(folder).resume() == 5


def test_a_damaged_tensor_is_named(begun, at, log):
    folder = begun()
    at.damage(at.file(folder, 4))
    log.clear()
    at.Training().run(folder).resume()
    first = log.lines()[0].splitlines()
    assert first[:2] == [
        f"skipped {at.file(folder, 4)}, which cannot be restored: "
        "the bytes are not those that were saved; nothing was restored",
        f"  in {at.file(folder, 4)}, member 'step-00000004/data/0', tensor 'model.weight'",
    ]
    assert first[2].startswith("  wanted CRC ")
    assert first[3] == (
        "  Go back to an earlier checkpoint; holdfast verify lists all that is damaged."
    )


def test_it_goes_back_as_far_as_it_must(begun, at, log):
    folder = begun()
    at.damage(at.file(folder, 4))
    at.truncate(at.file(folder, 3))
    at.empty(at.file(folder, 2))
    at.garbage(at.file(folder, 1))
    log.clear()
    assert at.Training().run(folder).resume() == 1
    said = "\n".join(log.lines())
    assert all(str(at.file(folder, step)) in said for step in range(1, 5))
    assert log.lines()[-1] == f"went back to {at.file(folder, 0)} (step 0)"


def test_older_ones_that_cannot_be_read_are_named_too(begun, at, log):
    folder = begun()
    at.truncate(at.file(folder, 1))
    log.clear()
    assert at.Training().run(folder).resume() == 5
    assert log.lines()[0].startswith(f"skipped {at.file(folder, 1)}, which cannot be read: ")


def test_none_left_is_an_error_and_changes_nothing(begun, at):
    folder = begun(stop=2)
    at.damage(at.file(folder, 1))
    at.empty(at.file(folder, 0))
    training = at.Training()
    before = training.weights()
    with pytest.raises(NoCheckpointError) as caught:
        training.run(folder).resume()
    assert str(caught.value) == (
        "none of the checkpoints of this run can be restored\n"
        f"  in {folder}\n"
        "  found step-00000000.pt, step-00000001.pt\n"
        "  holdfast verify says what is damaged. To begin anew, use another folder."
    )
    assert torch.equal(training.weights(), before)
    assert at.names(folder) == ["step-00000000.pt", "step-00000001.pt"]


@pytest.mark.parametrize("harm", HARMS)
def test_one_asked_for_by_name_is_that_one_or_an_error(begun, at, harm):
    folder = begun()
    getattr(at, harm)(at.file(folder, 2))
    training = at.Training()
    before = training.weights()
    run = training.run(folder)
    with pytest.raises(HoldfastError):
        run.resume(2)
    with pytest.raises(HoldfastError):
        run.resume("step-00000002.pt")
    assert torch.equal(training.weights(), before)
    assert run.resume() == 5


def test_a_checkpoint_that_does_not_fit_is_an_error_and_no_reason_to_go_back(begun, at):
    folder = begun()
    run = holdfast.Run(folder, model=torch.nn.Linear(5, 5))
    with pytest.raises(MismatchError, match="the checkpoint does not fit the live parts"):
        run.resume()


TEXTS = {
    "empty": "this is an empty file\n  in {}\n  Whatever was to write it did not: look there.",
    "garbage": "this is a web page, not the file that was to be downloaded\n  in {}\n  Open the "
    "address in a browser: the page says what is wrong.",
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("reader", ["load", "open", "verify", "load_state"])
def test_files_that_are_no_checkpoint_or_half_of_one_are_errors(begun, at, harm, reader):
    path = at.file(begun(stop=1), 0)
    getattr(at, harm)(path)
    if harm == "damage" and reader in ("open", "verify"):
        report = holdfast.verify(path)
        assert (report.ok, len(report.damages)) == (False, 1)
        return
    options = {"model": torch.nn.Linear(3, 2)} if reader == "load_state" else {}
    with pytest.raises(FormatError) as caught:
        getattr(holdfast, reader)(path, **options)
    assert caught.value.file == str(path)
    assert str(caught.value).startswith(TEXTS.get(harm, "").format(path))


def test_a_checkpoint_removed_while_it_was_looked_for_is_skipped(begun, at, log):
    """Another process may prune by hand."""
    folder = begun()
    (folder / "step-00000009.pt").symlink_to(folder / "gone.pt")
    log.clear()
    assert at.Training().run(folder).resume() == 5


# Folders of other code


def test_other_codes_folders_are_listed_by_what_they_hold(tmp_path):
    for name, tree, time in [
        ("b.pt", {"epoch": 2}, 5),
        ("a.pth", {"epoch": 11}, 1),
        ("c.ckpt", {"epoch": 3, "state_dict": {}}, 9),
        ("old.pt", {"w": torch.zeros(1)}, 3),
        ("older.pt", {"w": torch.zeros(1)}, 2),
    ]:
        torch.save(tree, tmp_path / name)
        os.utime(tmp_path / name, (time, time))
    run = holdfast.Run(tmp_path)
    assert [(e.name, e.step, e.order_by) for e in run.checkpoints()] == [
        ("older.pt", None, "time"),
        ("old.pt", None, "time"),
        ("b.pt", 2, "epoch"),
        ("c.ckpt", 3, "epoch"),
        ("a.pth", 11, "epoch"),
    ]
    assert run.latest().name == "a.pth"
    assert holdfast.open(tmp_path).path.name == "a.pth"
    assert holdfast.open(f"{tmp_path}@3").path.name == "c.ckpt"


def test_a_run_begins_beside_other_codes_files(tmp_path, training, at, log):
    torch.save({"epoch": 4, "state_dict": {}}, tmp_path / "theirs.pt")
    run = training.run(tmp_path)
    assert run.resume() == 0
    assert log.lines() == [
        f"No checkpoint in {tmp_path}, starting at 0",
        "theirs.pt was not saved by a run; to begin from it: "
        f"Run(..., start_from='{tmp_path}/theirs.pt')",
    ]
    run.save(0)
    assert [entry.name for entry in run.checkpoints()] == ["theirs.pt", "step-00000000.pt"]
    assert run.latest().name == "step-00000000.pt"
