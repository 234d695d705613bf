from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from holdfast.errors import FileError, NoCheckpointError, UsageError
from holdfast.runs.where import Where, parse, resolve
from holdfast.spec.index import Index
from holdfast.spec.record import Record


def read(path):
    """Headers of the files below: the step is their content."""
    step = int(path.read_text())
    record = Record(id=str(step), step=step, sequence=step, metrics={"loss": 1 / (1 + step % 7)})
    return Index(file=str(path), format="test", tree={}, extents={}, record=record)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "a", "a@b"):
        Path(folder).mkdir()
        for step in (5, 6, 7):
            Path(folder, f"step-{step}.pt").write_text(str(step))
    Path("run@5").touch()
    Path("empty").mkdir()
    Path("shards").mkdir()
    Path("shards/model.safetensors.index.json").touch()
    Path("dcp").mkdir()
    Path("dcp/.metadata").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("run", Where(Path("run"))),
        ("run@6", Where(Path("run"), "6")),
        ("run@5", Where(Path("run@5"))),  # it exists as it stands
        ("run@best:loss:min", Where(Path("run"), "best:loss:min")),
        ("run@best:f1@5", Where(Path("run"), "best:f1@5")),
        ("a@b", Where(Path("a@b"))),
        ("a@b@latest", Where(Path("a@b"), "latest")),
        ("nothing@here@5", Where(Path("nothing@here"), "5")),
        ("nothing", Where(Path("nothing"))),
        (Path("run@6"), Where(Path("run"), "6")),
    ],
)
def test_a_text_is_a_path_and_a_choice(here, text, where):
    assert parse(text) == where


@pytest.mark.parametrize("text", ["@latest", "run@", "@", ""])
def test_half_a_text_is_a_letter(here, text):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value) == (
        "this names no checkpoint\n"
        f"  wanted RUN@latest, RUN@best:METRIC or RUN@STEP, found {text!r}"
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("run", "run/step-7.pt"),
        ("run/", "run/step-7.pt"),
        ("run@latest", "run/step-7.pt"),
        ("run@best:loss:min", "run/step-6.pt"),
        ("run@6", "run/step-6.pt"),
        ("run@step-6.pt", "run/step-6.pt"),
        ("run/step-6.pt", "run/step-6.pt"),
        ("run@5", "run@5"),
        ("a@b", "a@b/step-7.pt"),
        ("a@b@5", "a@b/step-5.pt"),
        ("shards", "shards"),
        ("dcp", "dcp"),
    ],
)
def test_every_way_to_name_a_checkpoint(here, text, path):
    assert resolve(text, read=read) == Path(path)


def test_reading_creates_nothing(here):
    before = sorted(here.rglob("*"))
    resolve("run", read=read)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("text", ["nothing", "nothing@latest"])
def test_what_is_not_there_is_a_letter(here, text):
    with pytest.raises(NoCheckpointError) as caught:
        resolve(text, read=read)
    assert str(caught.value) == (
        "there is no such file or folder\n  in nothing\n"
        "  A path is a file, a checkpoint folder, RUN, RUN@best:METRIC or RUN@STEP."
    )
    assert not Path("nothing").exists()


def test_an_empty_folder_is_a_letter(here):
    with pytest.raises(NoCheckpointError, match=r"^there is no checkpoint in this folder\n"):
        resolve("empty", read=read)


@pytest.mark.parametrize("text", ["run/step-6.pt@latest", "dcp@5"])
def test_a_checkpoint_has_no_others_to_choose_from(here, text):
    path, _, which = text.partition("@")
    with pytest.raises(UsageError) as caught:
        resolve(text, read=read)
    assert str(caught.value) == (
        f"one checkpoint has no others to choose from\n  in {path}\n  found @{which}\n"
        "  Give the run folder before the @, or leave the @ out."
    )


def test_a_choice_is_written_as_it_is_read():
    assert str(Where(Path("run"), "best:loss")) == "run@best:loss"
    assert str(Where(Path("run"))) == "run"


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_what_cannot_be_looked_at_is_not_said_to_be_missing(here, monkeypatch, number):
    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(FileError) as caught:
            resolve("run")
    assert caught.value.errno == number
    assert os.strerror(number) in str(caught.value)
