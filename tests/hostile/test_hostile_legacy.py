"""Legacy files that name what is not there, say two things, or end anywhere."""

from __future__ import annotations

import io
import pickle
import struct
import time
from contextlib import suppress

import pytest
import torch
from tests.unit.formats.old_writers import MACHINE, legacy

from holdfast.errors import FormatError, HoldfastError, RefusedError, TruncatedError

CURE = "The file is broken, or made to do harm: do not load it with anything else."


def storage(asm, key="1", numel=2, view=None, cls="FloatStorage"):
    pid = ("storage", asm.sym("torch", cls), key, "cpu", numel, view)
    return asm.raw(asm.ops(pid) + b"Q")


def tensor(asm, **options):
    return asm.tensor((2,), storage=storage(asm, **options))


TWO = {"1": (2, bytes(8))}


def letter(asm, data: bytes) -> FormatError:
    started = time.process_time()
    with pytest.raises(FormatError) as caught:
        asm.look(data)
    assert time.process_time() - started < 5
    with pytest.raises(FormatError):
        asm.load(data)
    return caught.value


def test_a_storage_that_is_named_and_never_listed(asm):
    """torch returns memory there that nobody wrote."""
    error = letter(asm, legacy(asm.pickle({"w": tensor(asm)}), {}, keys=[]))
    assert str(error) == (
        "refused: every storage that the object names is listed\n"
        "  in <BytesIO>, member 'the list of storages'\n"
        "  found 1 are not, such as '1'\n"
        f"  {CURE}"
    )


def test_a_storage_that_is_listed_and_never_named(asm):
    error = letter(asm, legacy(asm.pickle([tensor(asm)]), {**TWO, "9": (2, bytes(8))}))
    assert str(error) == (
        "refused: every storage that is listed is named by the object\n"
        "  in <BytesIO>, member 'the list of storages'\n"
        "  found '9'\n"
        f"  {CURE}"
    )


def test_a_storage_that_is_listed_twice(asm):
    error = letter(asm, legacy(asm.pickle([tensor(asm)]), TWO, keys=["1", "1"]))
    assert error.what == "refused: no storage is listed twice"
    assert error.found == "1 are"


def test_a_storage_of_another_length_than_its_bytes(asm):
    for numel in (3, 1, 0, -1, 2**63 - 1, -(2**63)):
        error = letter(asm, legacy(asm.pickle([tensor(asm)]), {"1": (numel, bytes(8))}))
        assert isinstance(error, RefusedError)
        assert str(error) == (
            "refused: a storage has as many elements in the object as in its bytes\n"
            "  in <BytesIO>, member 'storage 1'\n"
            f"  wanted 2, found {numel:,}\n"
            f"  {CURE}"
        )


@pytest.mark.parametrize("numel", [2**40, 2**62, 2**63 - 1])
def test_storages_larger_than_the_file(asm, numel):
    data = legacy(asm.pickle([tensor(asm, numel=numel)]), {"1": (numel, bytes(8))})
    error = letter(asm, data)
    assert isinstance(error, TruncatedError)
    end = len(data) - 8 + 4 * numel
    assert str(error) == (
        "this file ends too early\n"
        "  in <BytesIO>, member 'storage 1'\n"
        f"  wanted at least {end:,} bytes, found {len(data):,} bytes\n"
        "  It was not written or copied to its end: get it again, or use an earlier one."
    )


@pytest.mark.parametrize("numel", [-1, 2**63, 1.0, "2", None, True, (2,)])
def test_lengths_that_are_none(asm, numel):
    error = letter(asm, legacy(asm.pickle({"w": tensor(asm, numel=numel)}), TWO))
    assert error.what == "refused: a storage has a whole number of elements"
    assert (error.member, error.tensor) == ("the object", "w")


IDS = {
    "a number": 5,
    "nothing": (),
    "of another kind": ("tensor", 1),
    "of five": ("storage", None, "1", "cpu", 2),
    "a module of a class that is none": ("module", "Net", None, None),
}


@pytest.mark.parametrize("name", IDS)
def test_persistent_ids_that_are_none(asm, name):
    error = letter(asm, legacy(asm.pickle([asm.raw(asm.ops(IDS[name]) + b"Q")]), {}))
    assert error.what in (
        "refused: a persistent id names a storage or a class",
        "refused: program text belongs to a class",
    )


CONTRADICTIONS = {
    "another length": ({}, {"numel": 3}),
    "another type": ({}, {"cls": "IntStorage"}),
    "a view of another length": ({"view": ("8", 0, 2)}, {"view": ("8", 0, 1)}),
    "a view of another place": ({"view": ("8", 0, 1)}, {"view": ("8", 1, 1)}),
    "a view that is its own root": ({}, {"view": ("1", 0, 2)}),
    "a root that was a view": ({"view": ("8", 0, 2)}, {"key": "8"}),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_storages_that_are_described_in_two_ways(asm, name):
    first, second = (storage(asm, **options) for options in CONTRADICTIONS[name])
    error = letter(asm, legacy(asm.pickle([first, second]), {"1": (2, bytes(8))}))
    assert error.what == "refused: a storage is described once"


VIEWS = [("8", -1, 1), ("8", 0, 3), ("8", 2, 1), ("8", 0, -1), ("8", 2**62, 2**62)]


@pytest.mark.parametrize("view", VIEWS)
def test_views_beyond_their_storage(asm, view):
    error = letter(asm, legacy(asm.pickle({"w": storage(asm, view=view)}), TWO))
    assert error.what == "refused: a view lies inside its storage"
    assert error.tensor == "w"


@pytest.mark.parametrize("view", [0, (), ("8", 0), (8, 0, 1), ("8", 0.0, 1), ("8", 0, True)])
def test_views_that_are_none(asm, view):
    error = letter(asm, legacy(asm.pickle([storage(asm, view=view)]), TWO))
    assert error.what == "refused: a view is a key, an offset and a length"


def test_a_tensor_of_a_view_stays_inside_the_view(asm):
    view = storage(asm, key="1", numel=8, view=("8", 4, 2))
    ref = asm.util("_rebuild_tensor", view, 0, (3,), (1,))
    error = letter(asm, legacy(asm.pickle({"w": ref}), {"1": (8, bytes(32))}))
    assert error.what == "refused: every element of a tensor lies inside its storage"


def test_headers_that_are_others(asm):
    tree = pickle.dumps(None, 2)
    error = letter(asm, legacy(tree, {}, version=1002))
    assert str(error) == (
        "the version of this legacy torch file is not the one it has\n"
        "  in <BytesIO>\n"
        "  wanted 1001, found 1002\n"
        "  The file is broken: get it again, or use an earlier one."
    )
    error = letter(asm, legacy(tree, {}, machine=[1]))
    assert error.what == "this legacy torch file does not describe the machine that wrote it"
    error = letter(asm, legacy(tree, {}, version=asm.raw(b"1001")))
    assert error.what == "the version of this legacy torch file is not the one it has"


@pytest.mark.parametrize("keys", [None, "1", {"1": 0}, [1], [None], [["1"]], [("1",)]])
def test_lists_of_storages_that_are_none(asm, keys):
    data = legacy(asm.pickle([tensor(asm)]), TWO, keys=[])
    head, _, tail = data.rpartition(pickle.dumps([], 2))
    error = letter(asm, head + pickle.dumps(keys, 2) + tail)
    assert error.what == "refused: the list of storages is one of keys"


def test_code_in_any_of_the_pickles_is_data(asm, tmp_path):
    canary = tmp_path / "ran"
    run = asm.call(asm.sym("posix", "system"), f"touch {canary}")
    data = legacy(asm.pickle({"w": tensor(asm), "x": run}), TWO)
    assert asm.look(data).symbols == ("posix.system",)
    assert asm.load(data, opaque="keep")["w"].tolist() == [0, 0]
    for place in ("version", "machine", "keys"):
        parts = {"version": 1001, "machine": MACHINE, "keys": ["1"], place: "MARK"}
        data = legacy(asm.pickle([tensor(asm)]), TWO, **parts)
        letter(asm, data.replace(pickle.dumps("MARK", 2), asm.pickle(run)))
    assert not canary.exists()


def small() -> bytes:
    buffer = io.BytesIO()
    net = torch.nn.Sequential(torch.nn.Linear(2, 1))
    tree = {"state": net.state_dict(), "w": torch.arange(3.0)[1:], "epoch": 3, "names": ["é"]}
    torch.save(tree, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_a_file_cut_off_anywhere_is_a_letter(asm):
    whole = small()
    assert len(whole) < 3000
    for end in range(len(whole)):
        with pytest.raises(HoldfastError) as caught:
            asm.look(whole[:end])
        assert end < 15 or isinstance(caught.value, TruncatedError), end
        with pytest.raises(HoldfastError):
            asm.load(whole[:end], opaque="keep")


def test_a_byte_changed_anywhere_in_the_headers_is_a_letter_or_a_value(asm):
    whole = small()
    pickles = asm.look(whole).other[0].nbytes
    for position in range(pickles):
        for value in (0, 0xFF, whole[position] ^ 1):
            changed = whole[:position] + bytes([value]) + whole[position + 1 :]
            with suppress(HoldfastError):  # and nothing else
                asm.look(changed)
                asm.load(changed, opaque="keep")


def test_a_million_keys_take_linear_time(asm):
    count = 200_000
    keys = [str(number) for number in range(count)]
    data = legacy(pickle.dumps(None, 2), {}, keys=keys)
    assert letter(asm, data).what == "refused: every storage that is listed is named by the object"


def test_the_pickle_of_a_huge_file_is_not_sought_to_its_end(asm):
    """A pickle that says it goes on for terabytes asks for what the file has, and no more."""
    data = legacy(b"\x80\x02\x8e" + struct.pack("<Q", 2**42) + bytes(50_000), {})
    assert isinstance(letter(asm, data), TruncatedError)
