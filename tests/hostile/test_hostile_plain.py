"""Plain pickles with hostile torch files inside them."""

from __future__ import annotations

import io
import pickle
import time

import pytest
import torch
from tests.hostile.test_hostile_legacy import storage
from tests.unit.formats.old_writers import legacy

from holdfast.errors import FormatError, HoldfastError, RefusedError, TruncatedError


def load_from(asm, data):
    return asm.call(asm.sym("torch.storage", "_load_from_bytes"), data)


def letter(asm, value) -> FormatError:
    started = time.process_time()
    with pytest.raises(FormatError) as caught:
        asm.look(asm.pickle(value))
    assert time.process_time() - started < 5
    return caught.value


def one(asm, numel=2) -> bytes:
    return legacy(asm.pickle(storage(asm, numel=numel)), {"1": (numel, bytes(4 * numel))})


def test_the_symbol_is_known_in_plain_pickles_only(asm):
    inner = one(asm)
    assert asm.look(asm.pickle(load_from(asm, inner))).tree.numel == 2
    assert asm.look(asm.file(load_from(asm, inner))).symbols == ("torch.storage._load_from_bytes",)
    inside = legacy(asm.pickle(load_from(asm, inner)), {})
    assert asm.look(inside).symbols == ("torch.storage._load_from_bytes",)


INNER = {
    "another pickle": lambda asm: pickle.dumps([1], 2),
    "a pickle in a pickle": lambda asm: asm.pickle(load_from(asm, one(asm))),
    "a tar": lambda asm: bytes(257) + b"ustar" + bytes(500),
    "a gzip file": lambda asm: b"\x1f\x8b\x08" + bytes(99),
}


@pytest.mark.parametrize("name", INNER)
def test_only_what_torch_writes_is_read_inside(asm, name):
    error = letter(asm, {"w": load_from(asm, INNER[name](asm))})
    assert error.what == "refused: what a pickle holds inside is what torch.save writes"
    assert error.tensor == "w"


def test_a_file_inside_that_is_more_than_a_storage(asm):
    error = letter(asm, {"w": load_from(asm, legacy(pickle.dumps([1], 2), {}))})
    assert error.what == "refused: a torch file inside a pickle is one storage"
    inside = legacy(asm.pickle(load_from(asm, one(asm))), {})
    error = letter(asm, {"w": load_from(asm, inside)})
    assert error.what == "refused: a torch file inside a pickle is one storage"


@pytest.mark.parametrize("data", [5, None, [], "é€", {}, 2**40])
def test_what_is_no_bytes(asm, data):
    error = letter(asm, {"w": load_from(asm, data)})
    assert error.what == (
        "refused: torch.storage._load_from_bytes is called as torch and Python do"
    )


def test_one_file_by_the_memo_a_thousand_times(asm):
    inner = asm.ops(one(asm, numel=100_000))
    call = asm.sym("torch.storage", "_load_from_bytes")
    again = asm.raw(call + b"h\x00\x85R")
    first = asm.raw(call + inner + b"q\x00\x85R")
    error = letter(asm, [first] + [again] * 1000)
    assert error.what == "refused: the torch files in a pickle are no larger than the pickle"


def test_files_of_two_byte_orders(asm):
    big, little = (
        asm.archive(asm.pickle(asm.storage()), {"0": bytes(16)}, {"a/byteorder": order})
        for order in (b"big", b"little")
    )
    error = letter(asm, [load_from(asm, big), load_from(asm, little)])
    assert error.what == "refused: the torch files in a pickle have one byte order"


def test_tensors_beyond_the_storage_inside(asm):
    tensor = asm.tensor((3,), storage=load_from(asm, one(asm)))
    assert letter(asm, {"w": tensor}).what == (
        "refused: every element of a tensor lies inside its storage"
    )


def test_a_file_inside_that_is_cut_off(asm):
    inner = one(asm)
    for end in range(1, len(inner)):
        with pytest.raises(HoldfastError):
            asm.look(asm.pickle({"w": load_from(asm, inner[:end])}))


def test_persistent_ids_mean_nothing_here(asm):
    error = letter(asm, {"w": asm.storage()})
    assert isinstance(error, RefusedError)
    assert error.what == "refused: this pickle names nothing outside itself"


def test_code_is_data(asm, tmp_path):
    canary = tmp_path / "ran"
    run = asm.call(asm.sym("posix", "system"), f"touch {canary}")
    data = asm.pickle({"w": load_from(asm, one(asm)), "x": run})
    assert asm.look(data).symbols == ("posix.system",)
    assert asm.load(data, opaque="keep")["w"].size() == 2
    hidden = asm.pickle(asm.raw(run + b"0" + storage(asm)))
    data = asm.pickle(load_from(asm, legacy(hidden, {"1": (2, bytes(8))})))
    assert asm.look(data).symbols == ("posix.system",)
    with pytest.raises(HoldfastError, match=r"posix\.system"):
        asm.load(data)
    assert not canary.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_cut_off_anywhere(asm, protocol):
    data = pickle.dumps({"w": torch.arange(3.0), "values": [1, "é", 2.5]}, protocol)
    for end in range(1, len(data)):
        with pytest.raises(HoldfastError):
            asm.look(data[:end])


def test_a_pickle_of_gigabytes_that_are_not_there(asm):
    with pytest.raises(TruncatedError):
        asm.look(b"\x80\x04\x8e" + (2**50).to_bytes(8, "little") + bytes(100))
    with pytest.raises(TruncatedError):
        asm.look(io.BytesIO(b"\x80\x04B\xff\xff\xff\xff").getvalue())
