"""What lies on the disk: one ordinary file per checkpoint, and a folder that is the database."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from datetime import datetime, timezone

import pytest
import torch

import holdfast
from holdfast.errors import UsageError


def test_a_checkpoint_is_an_ordinary_file_with_one_key_for_each_part(tmp_path, training, at):
    run = training.run(tmp_path)
    run.extra["n"] = 1
    run.save(100)
    path = tmp_path / "step-00000100.pt"
    tree = torch.load(path, weights_only=True)
    assert list(tree) == ["model", "optimizer", "scheduler", "extra", "rng"]
    torch.load(path, weights_only=True, mmap=True)
    torch.nn.Linear(3, 2).load_state_dict(tree["model"])
    other = at.Training()
    other.optimizer.load_state_dict(tree["optimizer"])
    other.scheduler.load_state_dict(tree["scheduler"])


def test_the_record_lies_in_the_root_behind_the_last_storage(tmp_path, training):
    training.run(tmp_path).save(100)
    with zipfile.ZipFile(tmp_path / "step-00000100.pt") as archive:
        assert archive.testzip() is None
        members = archive.namelist()
    assert {name.partition("/")[0] for name in members} == {"step-00000100"}
    storages = [i for i, name in enumerate(members) if "/data/" in name]
    assert members.index("step-00000100/holdfast.json") == storages[-1] + 1


def test_the_records_fields(tmp_path, training, at):
    run = training.run(tmp_path, keep=holdfast.keep.latest(3) | holdfast.keep.best("loss"))
    before = datetime.now(timezone.utc)
    run.resume()
    run.save(0, metrics={"loss": 0.5})
    run.save(4, metrics={"loss": 0.25})
    first, second = at.record(at.file(tmp_path, 0)), at.record(at.file(tmp_path, 4))
    assert list(second) == [
        *("holdfast", "id", "step", "sequence", "parent", "time", "elapsed", "metrics", "best"),
        *("parameters", "converted", "provenance"),
    ]
    assert second["holdfast"] == 1
    assert re.fullmatch(r"[0-9a-f]{32}", second["id"])
    assert (second["step"], second["sequence"]) == (4, 1)
    assert (first["parent"], second["parent"]) == (None, first["id"])
    saved = datetime.fromisoformat(second["time"])
    assert saved.tzinfo == timezone.utc
    assert -0.001 <= (saved - before).total_seconds() < 60
    assert 0 <= first["elapsed"] <= second["elapsed"] < 60
    assert second["metrics"] == {"loss": 0.25}
    assert second["best"] == {"loss": "min"}
    assert second["parameters"] == {"optimizer": [["model.weight", "model.bias"]]}
    assert all(note.startswith("numpy.") for note in second["converted"].values())
    assert set(second["provenance"]) >= {"git", "argv", "host", "pid", "platform", "versions"}
    assert second["provenance"]["versions"]["torch"] == torch.__version__
    assert second["provenance"]["pid"] == os.getpid()
    assert second["provenance"]["file"] == "step-00000004.pt"


def test_save_state_records_no_step_and_no_sequence(tmp_path, training, at):
    holdfast.save_state(tmp_path / "a.pt", metrics={"loss": 1}, **training.parts)
    record = at.record(tmp_path / "a.pt")
    assert [record.get(key) for key in ("step", "sequence", "parent")] == [None, None, None]
    assert record["metrics"] == {"loss": 1.0}


def test_what_is_no_tensor_is_small(tmp_path, training, at):
    """Nothing of the machine's bulk (such as 625 objects for one generator) is in the pickle."""
    training.run(tmp_path).save(0)
    assert at.file(tmp_path, 0).stat().st_size < 25_000


def test_going_back_begins_a_branch_with_names_of_its_own(begun, at):
    folder = begun()
    before = {name: (folder / name).read_bytes() for name in at.names(folder)}
    training = at.Training()
    run = training.run(folder, keep=None)
    assert run.resume(1) == 2
    for _ in run.steps(4):
        training.step()
        run.save()
    assert run.resume(1) == 2
    run.save(2)
    assert at.names(folder) == [
        *("step-00000000.pt", "step-00000001.pt"),
        *("step-00000002.2.pt", "step-00000002.3.pt", "step-00000002.pt"),
        *("step-00000003.2.pt", "step-00000003.pt", "step-00000004.pt"),
    ]
    records = [at.record(entry.path) for entry in run.checkpoints()]
    assert [record["sequence"] for record in records] == list(range(8))
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4, 2, 3, 2]
    ids = [record["id"] for record in records]
    parents = [record["parent"] for record in records]
    assert parents == [None, *ids[:4], ids[1], ids[5], ids[1]]
    for name, data in before.items():
        assert (folder / name).read_bytes() == data
    assert run.latest().name == "step-00000002.3.pt"
    assert at.Training().run(folder).resume() == 3


def test_order_is_the_sequence_never_file_time_and_never_the_name(begun, at):
    folder = begun(name="{step}-of-many")
    for age, step in enumerate(range(5)):
        os.utime(folder / f"{step}-of-many.pt", (1_000_000 - age, 1_000_000 - age))
    shutil.move(folder / "4-of-many.pt", folder / "0000.pt")
    assert at.steps(folder) == [0, 1, 2, 3, 4]
    training = at.Training()
    assert training.run(folder).resume() == 5


def test_a_pin_is_an_empty_file_beside_it(begun, at):
    folder = begun()
    run = at.Training().run(folder, keep=holdfast.keep.latest(1))
    run.pin(1)
    run.pin("latest")
    assert (folder / "step-00000001.pin").read_bytes() == b""
    assert [entry.step for entry in run.checkpoints() if entry.is_pinned] == [1, 4]
    run.resume()
    run.save(5)
    run.save(6)
    assert at.steps(folder) == [1, 4, 6]
    run.unpin(1)
    assert not (folder / "step-00000001.pin").exists()
    run.save(7)
    assert at.steps(folder) == [4, 7]


def test_a_pin_may_be_set_by_anybody_while_the_run_goes_on(tmp_path, training, at):
    run = training.run(tmp_path, keep=holdfast.keep.latest(1))
    run.save(0)
    holdfast.Run(tmp_path).pin(0)
    run.save(1)
    run.save(2)
    assert at.steps(tmp_path) == [0, 2]


def test_pinning_what_is_not_there_is_an_error(begun):
    folder = begun()
    with pytest.raises(holdfast.errors.NoCheckpointError, match="there is no checkpoint of step 9"):
        holdfast.Run(folder).pin(9)


def test_the_folder_holds_nothing_but_checkpoints_lock_and_pins(tmp_path, training):
    run = training.run(tmp_path, keep=holdfast.keep.latest(2))
    for step in run.steps(6):
        training.step()
        run.save(metrics={"loss": step})
        if step == 4:
            run.pin(4)
        found = {path.name for path in tmp_path.iterdir()}
        checkpoints = {f"step-{s:08d}.pt" for s in range(max(0, step - 1), step + 1)}
        if step > 4:
            checkpoints.add("step-00000004.pt")
        assert found == checkpoints | {".lock"} | ({"step-00000004.pin"} if step > 3 else set())


FOREIGN = {
    "notes.txt": b"mine",
    "step-00000099.txt": b"mine",
    "best_model.pt": None,
    "0000.bin": b"not a checkpoint",
    "step-00000000.pt.bak": b"mine",
    ".hidden": b"mine",
    ".mine.tmp": b"mine",
    ".step-0.pt.zzzzzzzz.tmp": b"mine",
    ".trash": b"mine",
    "samples/a.png": b"mine",
}


def test_files_holdfast_did_not_write_are_never_touched(tmp_path, training, at):
    foreign = {}
    for name, data in FOREIGN.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if data is None:
            torch.save({"state_dict": {}, "epoch": 3}, path)
        else:
            path.write_bytes(data)
        foreign[name] = (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
    with training.run(tmp_path, keep=holdfast.keep.latest(1)) as run:
        for _ in run.steps(4):
            training.step()
            run.save()
    run = at.Training().run(tmp_path, keep=holdfast.keep.latest(1))
    run.resume()
    run.save(4)
    run.prune(dry_run=False)
    for name, known in foreign.items():
        path = tmp_path / name
        assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == known
    ours = sorted(path.name for path in tmp_path.glob("step-*.pt"))
    assert ours == ["step-00000003.pt", "step-00000004.pt"]


def test_a_copy_made_by_hand_is_not_removed(begun, at):
    folder = begun(stop=2)
    shutil.copy(at.file(folder, 0), folder / "keep-me.pt")
    run = at.Training().run(folder, keep=holdfast.keep.latest(1))
    run.resume()
    run.save(2)
    run.save(3)
    assert at.names(folder) == ["keep-me.pt", "step-00000001.pt", "step-00000003.pt"]


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("step-{step:08d}", r"step-00000007\.pt"),
        ("model_{step}.pth", r"model_7\.pth"),
        ("{time:%Y%m%d_%H%M%S}-{step}", r"20\d{6}_\d{6}-7\.pt"),
        ("模型_{step}_{time:%H%M}.pt", r"模型_7_\d{4}\.pt"),
        ("{step:>4}", r"   7\.pt"),
    ],
)
def test_names_with_step_and_time(tmp_path, training, at, template, pattern):
    run = training.run(tmp_path / "a" / "b", name=template)
    run.save(7)
    [name] = at.names(tmp_path / "a" / "b")
    assert re.fullmatch(pattern, name)
    assert at.Training().run(tmp_path / "a" / "b", name=template).resume() == 8
    torch.load(tmp_path / "a" / "b" / name, weights_only=True)


def test_another_template_goes_on_with_the_same_run(begun, at):
    folder = begun(stop=2)
    run = at.Training().run(folder, keep=None, name="epoch{step}.pth")
    assert run.resume() == 2
    run.save(2)
    assert at.names(folder) == ["epoch2.pth", "step-00000000.pt", "step-00000001.pt"]
    assert at.steps(folder) == [0, 1, 2]


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("checkpoint", "gives two steps the same name: it has no {step}"),
        ("{time:%Y}", "gives two steps the same name: it has no {step}"),
        ("{step:0<8}", "gives two steps the same name: {step:0<8} fills up with '0'"),
        ("{step}{time:%H}", "could give two steps the same name: its fields touch each other"),
        ("{epoch}", "has the field {epoch}, where only {step} and {time} are known"),
        ("{step", "cannot be read (expected '}' before end of string)"),
        ("a/{step}", "gives names with '/', a path separator"),
        (".{step}", "gives a hidden name: it starts with a dot"),
        ("{step}.ckpt", "gives a suffix that is neither .pt nor .pth"),
    ],
)
def test_a_template_that_collides_or_makes_no_name_is_an_error_at_construction(
    tmp_path, training, template, why
):
    with pytest.raises(UsageError) as caught:
        training.run(tmp_path / "run", name=template)
    assert str(caught.value) == (
        f"the name template {template!r} {why}\n"
        '  Write it as name="step-{step:08d}" or name="{time:%Y%m%d_%H%M%S}-{step}".'
    )
    assert not (tmp_path / "run").exists()


def test_other_codes_checkpoint_asked_for_by_name_is_gone_on_from(tmp_path, training, at):
    tree = {name: part.state_dict() for name, part in training.parts.items()}
    torch.save({**tree, "epoch": 6, "extra": 5}, tmp_path / "theirs.pt")
    other = at.Training(seed=1)
    run = other.run(tmp_path, keep=None)
    assert run.resume("theirs.pt") == 7
    assert run.extra == {}
    assert torch.equal(other.weights(), training.weights())
    run.save(7)
    assert at.record(at.file(tmp_path, 7))["parent"] is None


def test_a_run_reached_through_a_link_is_the_same_run(begun, tmp_path, at):
    folder = begun(stop=2)
    (tmp_path / "link").symlink_to(folder)
    run = at.Training().run(tmp_path / "link", keep=None)
    assert run.resume() == 2
    run.save(2)
    assert at.steps(folder) == [0, 1, 2]
    (folder / "latest.pt").symlink_to("step-00000002.pt")
    assert at.steps(folder) == [0, 1, 2]


def test_provenance_never_fails_a_save(tmp_path, training, at):
    """The current folder is gone, there is no git, and the command line is odd."""

    def act():
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        os.environ["PATH"] = ""
        sys.argv = ["train.py", "\udcff", "x" * 100_000]
        training.run(tmp_path / "run").save(0)
        return at.record(at.file(tmp_path / "run", 0))["provenance"]["argv"][:2]

    assert at.in_child(act) == "['train.py', '\\\\udcff']"
