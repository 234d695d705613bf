from __future__ import annotations

import errno
import os
import random
import tempfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import FileError, NoCheckpointError, NotACheckpointError
from holdfast.formats.torch_zip import write
from holdfast.io.sink import GatheringSink
from holdfast.runs.entry import Entry
from holdfast.runs.listing import Found, find, list_run, next_sequence, order
from holdfast.runs.reading import read_briefly, read_headers
from holdfast.spec import record as records
from holdfast.spec.record import Record


def names(entries):
    return [entry.name for entry in entries]


# Ordering: values alone.


def found(name, *, sequence=None, step=None, epoch=None, mtime=0.0, problem=None, has_record=False):
    record = None
    if sequence is not None or has_record:
        record = Record(id=name, sequence=sequence, step=step)
    return Found(Entry(Path(name), record, problem, mtime=mtime), step, epoch)


BROKEN = FileError("broken")


def test_runs_are_ordered_by_sequence_whatever_step_name_and_time_say():
    ordered = order(
        [
            found("a.pt", sequence=2, step=5, mtime=1),
            found("b.pt", sequence=0, step=9, mtime=3),
            found("c.pt", sequence=1, step=7, mtime=2),
        ]
    )
    assert names(ordered) == ["b.pt", "c.pt", "a.pt"]
    assert {entry.order_by for entry in ordered} == {"sequence"}
    assert [entry.step for entry in ordered] == [9, 7, 5]


def test_files_of_other_code_are_ordered_by_step_and_come_before_ours():
    ordered = order(
        [
            found("ours.pt", sequence=0, step=3),
            found("b.pt", step=9, epoch=1, mtime=1),
            found("a.pt", step=10, epoch=1, mtime=0),
            found("weights.pt", mtime=7),
            found("init.pt", mtime=6),
            found("gone.pt", problem=BROKEN, mtime=1),
        ]
    )
    assert [(entry.name, entry.step, entry.order_by) for entry in ordered] == [
        ("init.pt", None, "time"),
        ("weights.pt", None, "time"),
        ("b.pt", 9, "step"),
        ("a.pt", 10, "step"),
        ("ours.pt", 3, "sequence"),
        ("gone.pt", None, "time"),
    ]


def test_epochs_decide_where_more_files_hold_one_and_are_never_compared_with_steps():
    ordered = order(
        [
            found("a.pt", epoch=3, mtime=1),
            found("b.pt", epoch=1, mtime=2),
            found("c.pt", step=2, mtime=9),
        ]
    )
    assert [(entry.name, entry.step, entry.order_by) for entry in ordered] == [
        ("c.pt", 2, "time"),
        ("b.pt", 1, "epoch"),
        ("a.pt", 3, "epoch"),
    ]


def test_a_state_saved_outside_a_run_is_ordered_like_other_code_s():
    ordered = order([found("run.pt", sequence=0), found("loose.pt", step=4, has_record=True)])
    assert [(entry.name, entry.order_by) for entry in ordered] == [
        ("loose.pt", "step"),
        ("run.pt", "sequence"),
    ]


anything = st.lists(
    st.builds(
        found,
        st.text("ab", min_size=1, max_size=3),
        sequence=st.one_of(st.none(), st.integers(-3, 9)),
        step=st.one_of(st.none(), st.integers(-3, 9)),
        epoch=st.one_of(st.none(), st.integers(-3, 9)),
        mtime=st.floats(0, 9),
        problem=st.sampled_from([None, None, BROKEN]),
    ),
    max_size=9,
)


@given(anything, st.randoms())
def test_the_order_of_ours_hangs_on_nothing_but_the_sequence(items, rng):
    ours = [one for one in items if one.entry.sequence is not None and not one.entry.problem]
    sequences = [entry.sequence for entry in order(ours)]
    assert sequences == sorted(sequences)
    everything = order(items)
    assert [entry.sequence for entry in everything if entry.order_by == "sequence"] == sequences
    others = [Found(replace(one.entry, mtime=rng.random()), one.counted_step) for one in ours]
    assert [entry.sequence for entry in order(others)] == sequences


@given(anything, st.randoms())
def test_the_order_of_the_folder_does_not_matter_and_nothing_is_lost(items, rng):
    shuffled = rng.sample(items, len(items))
    keyed = sorted(names(order(items)))
    assert keyed == sorted(one.entry.name for one in items)
    kinds = [bool(entry.problem) for entry in order(shuffled)]
    assert kinds == sorted(kinds)


def test_the_next_sequence_is_above_all_there_ever_were():
    ours = order([found("a.pt", sequence=4), found("b.pt", sequence=2)])
    assert next_sequence([]) == 0
    assert next_sequence(ours) == 5
    assert next_sequence([*ours, Entry(Path("c.pt"), problem=BROKEN)]) == 6
    assert next_sequence([Entry(Path("foreign.pt"))]) == 0


# Listing: real files.


def torch_zip(path, pickled, record=None):
    """A torch zip that holds the pickle ``pickled`` and no tensors."""
    members = {
        "data.pkl": pickled,
        "byteorder": b"little",
        **({} if record is None else {"holdfast.json": records.encode(record)}),
        "version": b"3\n",
    }
    plan = write.layout(path.stem, [(name, len(data)) for name, data in members.items()])
    with path.open("wb") as file:
        sink = GatheringSink(file.write)
        write.fill(plan, members.values(), sink)
        sink.end()


def pickled(**counts):
    """A protocol-2 pickle of a dict with small whole numbers."""
    items = b"".join(
        b"X" + len(key).to_bytes(4, "little") + key.encode() + b"J" + value.to_bytes(4, "little")
        for key, value in counts.items()
    )
    return b"\x80\x02}(" + items + b"u."


@pytest.fixture
def run(tmp_path):
    """Ours, saved in an order that neither names nor file times nor steps give away."""
    sequences = {"step-00000005.pt": 0, "step-00000003.pt": 1, "step-00000004.2.pt": 2}
    for name, sequence in sequences.items():
        step = int(name[5:13])
        record = Record(id=name, step=step, sequence=sequence, metrics={"loss": step / 10})
        torch_zip(tmp_path / name, pickled(), record)
        os.utime(tmp_path / name, (1000 - sequence, 1000 - sequence))
    return tmp_path


def test_a_run_is_listed_by_sequence(run):
    entries = list_run(run)
    assert names(entries) == ["step-00000005.pt", "step-00000003.pt", "step-00000004.2.pt"]
    last = entries[-1]
    assert last.order_by == "sequence"
    assert (last.step, last.sequence, last.metrics) == (4, 2, {"loss": 0.4})
    assert (last.nbytes, last.mtime) == (last.path.stat().st_size, 998.0)
    assert last.to_json() == {
        "name": "step-00000004.2.pt",
        "path": str(run / "step-00000004.2.pt"),
        "step": 4,
        "order_by": "sequence",
        "id": "step-00000004.2.pt",
        "sequence": 2,
        "parent": None,
        "time": None,
        "metrics": {"loss": 0.4},
        "nbytes": last.nbytes,
        "mtime": 998.0,
        "is_pinned": False,
        "problem": None,
    }


def test_renaming_and_touching_changes_no_order(run):
    before = [entry.id for entry in list_run(run)]
    order_of_names = random.Random(7).sample(range(3), 3)
    for number, entry in zip(order_of_names, list_run(run), strict=True):
        entry.path.rename(run / f"{number}.pt")
        os.utime(run / f"{number}.pt", (number, number))
    assert [entry.id for entry in list_run(run)] == before


@pytest.mark.parametrize(("member", "what"), [("holdfast.json", "record"), ("data.pkl", "pickle")])
def test_a_damaged_record_or_pickle_makes_a_checkpoint_unreadable(run, member, what):
    path = run / "step-00000004.2.pt"
    with zipfile.ZipFile(path) as archive:
        content = archive.read(f"step-00000004.2/{member}")
        wanted = archive.getinfo(f"step-00000004.2/{member}").CRC
    data = bytearray(path.read_bytes())
    at = data.index(content) + len(content) - 1
    data[at] ^= 1
    path.write_bytes(data)
    last = list_run(run)[-1]
    assert last.path == path
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    assert str(last.problem) == (
        f"the {what} of this checkpoint is damaged\n"
        f"  in {path}, member 'step-00000004.2/{member}'\n"
        f"  wanted CRC {wanted:08x}, found {zlib.crc32(damaged):08x}\n"
        "  Use an earlier checkpoint: holdfast list shows them."
    )
    assert find(list_run(run), "latest").name == "step-00000003.pt"


def test_a_state_saved_outside_a_run_is_found_by_what_it_holds(tmp_path):
    torch_zip(tmp_path / "a.pt", pickled(epoch=4), Record(id="x"))
    assert [(e.step, e.order_by, e.id) for e in list_run(tmp_path)] == [(4, "epoch", "x")]


def test_reading_briefly_gives_the_record_that_reading_gives(run):
    for path in run.iterdir():
        assert read_briefly(path).record == read_headers(path).record
        assert read_briefly(path).record is not None


def test_pins_are_seen(run):
    (run / "step-00000003.pin").touch()
    assert [entry.is_pinned for entry in list_run(run)] == [False, True, False]


def test_what_is_no_checkpoint_is_not_listed(run):
    before = names(list_run(run))
    for name in (
        ".lock",
        ".step-6.pt.0123abcd.tmp",
        ".trash-0123abcd-step-1.pt",
        "step-00000003.pin",
        "notes.txt",
        "metrics.csv",
        "empty",
        "events.out.tfevents",
    ):
        (run / name).write_bytes(b"" if name == "empty" else b"text")
    (run / "archive.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (run / "samples").mkdir()
    (run / "folder.pt").mkdir()
    os.mkfifo(run / "pipe.pt")
    (run / "latest.pt").symlink_to("step-00000003.pt")
    assert names(list_run(run)) == before


def test_what_bears_a_checkpoint_s_name_and_cannot_be_read_is_listed_last(run):
    whole = (run / "step-00000003.pt").read_bytes()
    (run / "step-00000000.pt").write_bytes(b"")
    (run / "step-00000001.pt").write_bytes(whole[: len(whole) // 2])
    (run / "notes.pth").write_bytes(b"these are notes")
    (run / "moved.ckpt").symlink_to(run / "nowhere" / "moved.ckpt")
    entries = list_run(run)
    assert names(entries)[:3] == ["step-00000005.pt", "step-00000003.pt", "step-00000004.2.pt"]
    assert sorted(names(entries)[3:]) == [
        "moved.ckpt",
        "notes.pth",
        "step-00000000.pt",
        "step-00000001.pt",
    ]
    assert all(entry.problem is None for entry in entries[:3])
    assert all(entry.problem is not None for entry in entries[3:])
    assert find(entries, "latest").name == "step-00000004.2.pt"


def test_other_code_s_checkpoints_are_listed_whatever_they_are_called(tmp_path):
    torch_zip(tmp_path / "b.pt", pickled(epoch=2, lr=1))
    torch_zip(tmp_path / "a.pth", pickled(epoch=10))
    torch_zip(tmp_path / "checkpoint_7", pickled(epoch=7))
    torch_zip(tmp_path / "weights.bin", pickled())
    entries = list_run(tmp_path)
    assert [(entry.name, entry.step, entry.order_by) for entry in entries] == [
        ("weights.bin", None, "time"),
        ("b.pt", 2, "epoch"),
        ("checkpoint_7", 7, "epoch"),
        ("a.pth", 10, "epoch"),
    ]
    assert find(entries, "latest").name == "a.pth"


@pytest.mark.parametrize("key", ["step", "global_step", "iteration"])
def test_other_code_s_steps_have_three_names(tmp_path, key):
    torch_zip(tmp_path / "a.pt", pickled(epoch=1, **{key: 700}))
    assert list_run(tmp_path)[0].step == 700


def test_a_checkpoint_folder_is_one_entry(run):
    folder = run / "step-00000006"
    folder.mkdir()
    (folder / "__0_0.distcp").write_bytes(bytes(100))
    record = records.encode(Record(id="x", step=6, sequence=3))
    (folder / "holdfast.json").write_bytes(record)
    last = list_run(run)[-1]
    assert (last.name, last.step, last.nbytes) == ("step-00000006", 6, 100 + len(record))
    (folder / "holdfast.json").write_bytes(b"{")
    assert "the record of this checkpoint cannot be read" in str(list_run(run)[-1].problem)


def test_links_in_a_circle_are_no_way_to_stop_a_listing(tmp_path):
    (tmp_path / "one.pt").symlink_to(tmp_path / "two.pt")
    (tmp_path / "two.pt").symlink_to(tmp_path / "one.pt")
    (tmp_path / "self.pt").symlink_to("self.pt")
    (tmp_path / "self").symlink_to("self")
    assert list_run(tmp_path) == []


def test_a_folder_that_may_not_be_entered_is_no_checkpoint():
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        folder.chmod(0o755)
        (folder / "secret").mkdir(mode=0o600)
        assert as_nobody(lambda: list_run(folder)) == "[]"
        folder.chmod(0o300)
        said = as_nobody(lambda: refusal(folder))
        folder.chmod(0o700)
    assert said == (
        f"this cannot be read: Permission denied\n  in {folder}\n"
        f"  Check its owner and permissions: ls -ld {folder}"
    )


def refusal(folder):
    with pytest.raises(FileError) as caught:
        list_run(folder)
    return caught.value


def as_nobody(call):
    """What ``call`` gives, as text, in a child that no permission is waived for."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            os.write(writing, str(call()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading) as pipe:  # noqa: PTH123 (a descriptor)
        return pipe.read()


def test_nothing_is_created_or_locked(run):
    before = sorted(run.iterdir())
    list_run(run)
    assert sorted(run.iterdir()) == before


def test_an_empty_folder_holds_nothing(tmp_path):
    assert list_run(tmp_path) == []


def test_no_path_holds_a_nul(tmp_path):
    with pytest.raises(NoCheckpointError, match="there is no such folder"):
        list_run(f"{tmp_path}/a\0b")


def test_a_missing_folder_is_a_letter(tmp_path):
    with pytest.raises(NoCheckpointError) as caught:
        list_run(tmp_path / "nothing")
    assert str(caught.value) == (
        f"there is no such folder\n  in {tmp_path / 'nothing'}\n"
        "  Is the path right, and the disk there?"
    )
    assert not (tmp_path / "nothing").exists()


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError) as caught:
        list_run(str(tmp_path / "file"))
    assert caught.value.errno == errno.ENOTDIR
    assert str(caught.value) == (
        f"a run is a folder, and this is a file\n  in {tmp_path / 'file'}\n"
        "  Give the folder that holds the checkpoints."
    )


def test_a_file_that_goes_while_it_is_listed_was_not_there(run):
    def read(path):
        path.unlink()
        raise FileError("gone", errno=errno.ENOENT)

    assert list_run(run, read=read) == []


def test_an_error_of_the_system_is_the_entry_s_problem(run, monkeypatch):
    def open_(*_args, **_kwargs):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_)
        entries = list_run(run)
    assert len(entries) == 3
    assert {entry.problem.errno for entry in entries} == {errno.EIO}


def test_another_zip_of_another_suffix_is_not_listed(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04")

    def read(path):
        raise NotACheckpointError("an archive of NumPy", file=path)

    assert list_run(tmp_path, read=read) == []


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_what_cannot_be_looked_at_neither_vanishes_nor_hides_the_others(
    run, monkeypatch, follows, number
):
    there = sorted(names(list_run(run)))
    bad = run / there[0]
    real = os.stat

    def refuse(path, *, dir_fd=None, follow_symlinks=True):
        if path == bad and follow_symlinks == follows:
            raise OSError(number, os.strerror(number))
        return real(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "stat", refuse)
    assert sorted(names(list_run(run))) == there
