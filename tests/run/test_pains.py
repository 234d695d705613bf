"""What people report of other tools (the numbers of the list), shown of a whole run."""

from __future__ import annotations

import math
import os
import signal
import tempfile

import pytest
import torch

import holdfast
from holdfast import keep
from holdfast.errors import NoSpaceError


def test_pain_01_killed_while_saving_leaves_no_half_checkpoint(tmp_path, at):
    """pytorch-lightning #688, #19970: a truncated file."""
    folder = tmp_path / "run"
    big = torch.nn.Linear(2000, 2000)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # the threads of the parent's pool are not in the child
        run = holdfast.Run(folder, model=big)
        for step in range(10_000):
            run.save(step)
        os._exit(0)
    while not any(path.name.endswith(".tmp") for path in folder.glob(".*")):
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run = holdfast.Run(folder, model=big)
    checkpoints = run.checkpoints()
    assert all(holdfast.verify(entry.path).ok for entry in checkpoints)
    newest = max((entry.step for entry in checkpoints), default=-1)
    assert run.resume() == newest + 1
    assert not [name for name in at.names(folder) if name.startswith(".")]


def test_pain_02_nothing_is_staged_elsewhere(tmp_path, training, at, monkeypatch):
    """pytorch-lightning #21253, #20270, #20243: through /tmp; full, EXDEV, mode 0600."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    training.run(tmp_path / "run").save(0)
    (tmp_path / "plain").write_bytes(b"")
    saved = at.file(tmp_path / "run", 0)
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert saved.stat().st_dev == tmp_path.stat().st_dev


@pytest.mark.parametrize(
    "policy", [keep.latest(1), keep.best("loss"), keep.best("none"), keep.every(steps=100)], ids=str
)
def test_pain_07_retention_never_deletes_the_newest(tmp_path, training, at, policy):
    """transformers #26961, #27138, #11769, #25129; accelerate #1163."""
    run = training.run(tmp_path, keep=policy)
    for step in range(6):
        run.save(step, metrics={"loss": step})
        assert at.steps(tmp_path)[-1] == step
        assert at.Training().run(tmp_path / "copy", start_from=tmp_path).resume() == step + 1


def test_pain_08_a_folder_used_again_keeps_its_new_checkpoint(begun, at):
    """transformers #37260: the new checkpoint-100 was deleted at once as the oldest."""
    folder = begun(stop=5)
    run = at.Training(seed=9).run(folder, keep=keep.latest(2))
    run.save(0)
    assert run.latest().name == "step-00000000.2.pt"
    run.save(1)
    assert [entry.name for entry in run.checkpoints()][-2:] == [
        "step-00000000.2.pt",
        "step-00000001.pt",
    ]
    assert at.Training().run(folder).resume() == 2


def test_pain_09_after_a_load_the_count_goes_on(begun, at):
    """accelerate #1601, #3306: it started at 0, and "already exists"."""
    folder = begun(stop=3)
    run = at.Training().run(folder, keep=None)
    assert run.resume() == 3
    run.save(3)
    assert at.steps(folder) == [0, 1, 2, 3]
    assert at.record(at.file(folder, 3))["sequence"] == 3


def test_pain_10_generators_that_were_not_restored_are_warned_of(begun, at, log):
    """accelerate #3433, #4283: skipped, with a line nobody sees."""
    folder = begun(stop=1)
    path = at.file(folder, 0)
    data = path.read_bytes()
    tree = torch.load(path, weights_only=True)
    tree["rng"]["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * 200
    del tree["rng"]["numpy"]
    _rewrite(path, tree, data)
    log.clear()
    at.Training().run(folder).resume()
    absent = [line for line in log.lines() if "cuda:199" in line]
    count = torch.cuda.device_count()
    assert absent == [
        f"not restored: the generator of cuda:199: this machine has {count} such devices"
    ]
    assert "not restored: NumPy's generator: not in the checkpoint" in log.lines()


def _rewrite(path, tree, data):
    """Another tree under the same record, as a later or an earlier version might have saved."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        [name] = [n for n in archive.namelist() if n.endswith("holdfast.json")]
        record = archive.read(name)
    torch.save(tree, path)
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/holdfast.json", record)


def test_pain_11_the_checkpoint_resumed_from_stays(begun, at):
    """pytorch-lightning #17189, #11379: resuming deleted it."""
    folder = begun(stop=5)
    run = at.Training().run(folder, keep=keep.latest(1))
    run.resume(2)
    for step in (3, 4, 5):
        run.save(step)
        assert 2 in at.steps(folder)
        assert holdfast.verify(at.file(folder, 2)).ok


def test_pain_12_nothing_is_deleted_before_the_next_one_is_there(tmp_path, training, at):
    """pytorch-lightning #1150, ignite #1117: deleted, then saved: disk full, nothing left."""
    folder = tmp_path / "small"
    training.model.register_buffer("table", torch.zeros(10_000))

    def act():
        run = training.run(folder, keep=keep.latest(1))
        run.save(0)
        said = at.letter(NoSpaceError, lambda: run.save(1))
        run.close()
        return f"{said.splitlines()[0]}; {at.steps(folder)}; {training.run(folder).resume()}"

    assert at.on_small_disk(folder, 20 * 4096, act) == (
        "the disk has no room for this checkpoint; nothing was written; [0]; 1"
    )


def test_pain_13_best_does_not_evict_the_latest(tmp_path, training, at):
    """orbax #526."""
    run = training.run(tmp_path, keep=keep.best("loss"))
    for step, loss in enumerate([0.1, 0.2, 0.9]):
        run.save(step, metrics={"loss": loss})
    assert at.steps(tmp_path) == [0, 2]
    assert at.Training().run(tmp_path).resume() == 3


def test_pain_14_a_failed_save_is_raised_and_not_only_logged(tmp_path, training, at):
    """orbax #605: an asynchronous failure went unnoticed."""
    folder = tmp_path / "small"
    training.model.register_buffer("table", torch.zeros(1 << 18))

    def act():
        run = training.run(folder)
        steps = iter(run.steps(10))
        next(steps)
        at_the_call = at.letter(NoSpaceError, run.save).splitlines()[0]
        # The end of a step that must be saved, and was not, is no end.
        run = training.run(folder)
        by_steps = at.letter(NoSpaceError, lambda: list(run.steps(1))).splitlines()[0]
        return f"{at_the_call}\n{by_steps}\n{at.names(folder)}"

    no_room = "the disk has no room for this checkpoint; nothing was written"
    assert at.on_small_disk(folder, 1 << 18, act) == f"{no_room}\n{no_room}\n[]"


def test_pain_15_no_checkpoint_mixes_two_steps(tmp_path, training, at):
    """pytorch-lightning #20953, pytorch #144657: asynchronous saves of changing tensors."""
    run = training.run(tmp_path, keep=None)
    training.step()
    tensors = [*training.model.parameters()]
    tensors += [training.optimizer.state[p]["momentum_buffer"] for p in tensors]
    tensors.append(run.extra.setdefault("tensor", torch.zeros(1000)))
    for step in range(20):
        for tensor in tensors:
            tensor.data.fill_(step)
        run.extra["step"] = step
        run.save(step)
        for tensor in tensors:
            tensor.data.fill_(-1)
        run.extra["step"] = -1
    run.wait()
    for step in range(20):
        tree = torch.load(at.file(tmp_path, step), weights_only=True)
        states = [state["momentum_buffer"] for state in tree["optimizer"]["state"].values()]
        for tensor in [*tree["model"].values(), *states, tree["extra"]["tensor"]]:
            assert torch.equal(tensor, torch.full_like(tensor, step))
        assert tree["extra"]["step"] == step


def test_pain_16_a_signal_in_the_middle_of_a_step_saves_the_whole_step(tmp_path, training, at):
    """pytorch-lightning #21406: saved inside the signal handler, half a step."""
    run = training.run(tmp_path, keep=None)

    def train():
        for step in run.steps(100):
            training.model.weight.data.fill_(step)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
                assert at.steps(tmp_path) == [0, 1, 2]
            training.model.bias.data.fill_(step)
            run.save()

    with pytest.raises(SystemExit):
        train()
    assert at.steps(tmp_path) == [0, 1, 2, 3]
    tree = torch.load(at.file(tmp_path, 3), weights_only=True)["model"]
    assert {float(value) for tensor in tree.values() for value in tensor.flatten()} == {3.0}


def test_pain_23_nan_does_not_block_best(tmp_path, training, at):
    """pytorch-lightning #1008."""
    run = training.run(tmp_path, keep=keep.best("loss"))
    for step, loss in enumerate([math.nan, 0.5, 0.4, math.nan, 0.6]):
        run.save(step, metrics={"loss": loss})
    assert at.steps(tmp_path) == [2, 4]
    assert run.best("loss").step == 2


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first", "made after the load"])
def test_pain_27_the_learning_rate_goes_on(tmp_path, at, order):
    """pytorch #60265, pytorch-lightning #15462."""

    def rates(training, run, stop):
        seen = {}
        for step in run.steps(stop):
            training.step()
            run.save()
            seen[step] = training.optimizer.param_groups[0]["lr"]
        return seen

    def parts(training):
        names = ["model", "optimizer", "scheduler"]
        if order == "scheduler first":
            names.reverse()
        return {name: training.parts[name] for name in names}

    straight = at.Training()
    expected = rates(straight, straight.run(tmp_path / "straight"), 9)
    first = at.Training()
    with holdfast.Run(tmp_path / "run", **parts(first)) as run:
        rates(first, run, 3)
    second = at.Training()
    if order == "made after the load":
        holdfast.load_state(tmp_path / "run", model=second.model, optimizer=second.optimizer)
        schedule = torch.optim.lr_scheduler.StepLR(second.optimizer, 2, gamma=0.5)
        second.scheduler = schedule
    with holdfast.Run(tmp_path / "run", **parts(second)) as run:
        assert rates(second, run, 9) == {step: expected[step] for step in range(3, 9)}
    assert torch.equal(second.weights(), straight.weights())
