"""safetensors files, listings and folders that no honest program would write."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    FileError,
    FormatError,
    HoldfastError,
    NotACheckpointError,
    RefusedError,
    TruncatedError,
)
from holdfast.formats import read_index
from holdfast.formats import safetensors as reader
from holdfast.formats.safetensors import header as headers
from holdfast.io.source import Memory, open_source
from holdfast.report.verify import verify_index
from holdfast.tensors.load import load_file

CURE = "The file is broken, or made so that two programs see two different files in it."


def entry(begin: int = 0, end: int = 4, dtype: object = "F32", shape: object = (1,)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(header: object, data: bytes = bytes(4)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def text_of(**fields: str) -> bytes:
    """One tensor of which some fields are given as they stand in the file."""
    whole = {"dtype": '"F32"', "shape": "[1]", "data_offsets": "[0,4]"} | fields
    return ('{"a":{' + ",".join(f'"{key}":{text}' for key, text in whole.items()) + "}}").encode()


def refusal(data: bytes) -> HoldfastError:
    with pytest.raises(HoldfastError) as caught, Memory(data, "f") as source:
        reader.read_index(source)
    assert caught.value.file == "f"
    return caught.value


def theirs_refuses(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return True
    return False


def test_the_files_that_the_others_are_made_of_are_good():
    for data in (file_of({"a": entry()}), file_of(text_of()), file_of(text_of() + b"   ")):
        with Memory(data, "f") as source:
            assert list(reader.read_index(source).tree) == ["a"]
        assert not theirs_refuses(data)


RULES = {
    "tensors lie one behind the other, without holes or overlaps": [
        file_of({"a": entry(0, 4), "b": entry(0, 4)}),
        file_of({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        file_of({"a": entry(0, 4), "b": entry(5, 9)}, bytes(9)),
        file_of({"a": entry(4, 8)}, bytes(8)),
        file_of({"a": entry(2**62, 2**62 + 4)}),
    ],
    "the last tensor ends where the file does": [
        file_of({"a": entry()}, bytes(5)),
        file_of({}, b"x"),
    ],
    "a tensor has exactly the bytes of its elements": [
        file_of({"a": entry(0, 4, "F64")}),
        file_of({"a": entry(shape=[2])}),
        file_of({"a": entry(shape=[0])}),
        file_of({"a": entry(0, 3, "F4", [7])}, bytes(3)),
        file_of({"a": entry(0, 3, "F6_E3M2", [5])}, bytes(3)),
    ],
    "data_offsets are where a tensor begins and where it ends": [
        file_of({"a": entry(4, 0)}),
        file_of({"a": entry(-4, 0)}),
        file_of({"a": entry(0, 2**63)}),
        file_of(text_of(data_offsets="[0]")),
        file_of(text_of(data_offsets="[0,4,8]")),
        file_of(text_of(data_offsets="[-0,4]")),
        file_of(text_of(data_offsets="[0,4.0]")),
        file_of(text_of(data_offsets="[false,4]")),
        file_of(text_of(data_offsets='["0","4"]')),
        file_of(text_of(data_offsets='{"0":4}')),
        file_of(text_of(data_offsets="null")),
    ],
    "a shape is a list of sizes": [
        file_of(text_of(shape="[true]")),
        file_of(text_of(shape="[1.0]")),
        file_of(text_of(shape="[[1]]")),
        file_of(text_of(shape="1")),
        file_of(text_of(shape="[-0]")),
    ],
    "sizes are whole numbers, whose product is less than 2**63": [
        file_of({"a": entry(shape=[-1])}),
        file_of({"a": entry(shape=[2**32, 2**32])}),
        file_of({"a": entry(0, 0, shape=[2**63, 0])}, b""),
        file_of({"a": entry(0, 0, shape=[2**62, 0, 2**62])}, b""),
    ],
    "an element type is one of those of safetensors": [
        file_of({"a": entry(dtype="F128")}),
        file_of({"a": entry(dtype="f32")}),
        file_of({"a": entry(dtype=None)}),
        file_of({"a": entry(dtype=["F32"])}),
    ],
    "a tensor has dtype, shape and data_offsets, and nothing else": [
        file_of({"a": None}),
        file_of({"a": []}),
        file_of({"a": {"dtype": "F32", "shape": [1]}}),
        file_of({"a": {**entry(), "stride": [1]}}),
    ],
    "__metadata__ maps text to text": [
        file_of({"__metadata__": {"a": 1}, "a": entry()}),
        file_of({"__metadata__": [], "a": entry()}),
        file_of({"__metadata__": entry()}),
    ],
    "the header is a JSON object": [
        file_of(b"[]", b""),
        file_of(b' {"a":1}', b""),
        file_of(b"\xef\xbb\xbf{}", b""),
        file_of(b"", b""),
    ],
}


@pytest.mark.parametrize(
    ("rule", "number"), [(rule, n) for rule, files in RULES.items() for n in range(len(files))]
)
def test_a_broken_rule_is_named(rule, number):
    error = refusal(RULES[rule][number])
    assert (type(error), error.what, error.cure) == (RefusedError, f"refused: {rule}", CURE)
    assert error.tensor in (None, "a", "b")


NO_JSON = {
    "a key twice": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "a field twice": b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
    "NaN": text_of(shape="[NaN]"),
    "Infinity": text_of(data_offsets="[0,Infinity]"),
    "a huge integer": text_of(data_offsets="[0," + "4" * 5000 + "]"),
    "a lone surrogate": text_of().replace(b'"a"', b'"\\ud800"'),
    "a lone surrogate in the metadata": b'{"__metadata__":{"a":"\\udfff"}}',
    "bytes that are no UTF-8": text_of().replace(b'"a"', b'"\xff"'),
    "a surrogate as bytes": text_of().replace(b'"a"', b'"\xed\xa0\x80"'),
    "deep nesting": text_of(shape="[" * 100_000 + "]" * 100_000),
    "deep nesting, cut": b'{"a":' + b"[" * 200_000,
    "a comma too many": text_of()[:-1] + b",}",
    "two objects": text_of() + b"{}",
    "a control character": text_of().replace(b'"a"', b'"\n"'),
    "a zero byte behind": text_of() + b"\0",
}


@pytest.mark.parametrize("what", NO_JSON)
def test_what_is_no_json_is_refused(what):
    error = refusal(file_of(NO_JSON[what]))
    assert (type(error), error.what) == (
        FormatError,
        "the header of this safetensors file cannot be read",
    )


@pytest.mark.parametrize("what", [name for name in NO_JSON if name != "a key twice"])
def test_safetensors_itself_refuses_them_too(what):
    # Of a key twice it takes the last.
    assert theirs_refuses(file_of(NO_JSON[what]))


def test_a_huge_header_is_refused_before_it_is_read():
    for nbytes in (headers.LONGEST_HEADER + 1, 2**40, 2**64 - 1):
        error = refusal(nbytes.to_bytes(8, "little") + b"{}")
        assert error.what == "refused: the header is not too long"
        assert error.wanted == "at most 100,000,000 bytes"
        with pytest.raises(NotACheckpointError):
            load_file(io.BytesIO(nbytes.to_bytes(8, "little") + b"{}"))
    assert type(refusal((1000).to_bytes(8, "little") + b"{}")) is TruncatedError
    assert type(refusal(b"\x02\0\0")) is TruncatedError


@pytest.mark.parametrize("piece", [b'"%d":{},', b'"%d":[],', b'"%d":0,'])
def test_a_million_entries_are_refused_at_once(piece):
    count = {b"{": 600_000, b"[": 1_100_000, b"0": 6_100_000}[piece[5:6]]
    data = file_of(b"{" + (piece % 7) * count + b'"x":0}', b"")
    start = time.process_time()
    error = refusal(data)
    assert (error.what, error.wanted) == (
        "refused: a file has not too many tensors",
        "at most 500,000 tensors",
    )
    assert time.process_time() - start < 2


def test_a_file_that_ends_early_says_so():
    data = safetensors.torch.save({"a": torch.ones(4), "b": torch.ones(4)})
    error = refusal(data[:-1])
    assert (type(error), error.what) == (TruncatedError, "this file ends too early")
    assert (error.wanted, error.found) == (f"{len(data):,} bytes", f"{len(data) - 1:,}")


def survive(data: bytes) -> bool:
    """Whether a file is taken; only letters are raised."""
    letter, taken = "", False
    try:
        with open_source(io.BytesIO(data)) as source:
            verify_index(read_index(source), source)
        load_file(io.BytesIO(data))
        taken = True
    except HoldfastError as error:
        letter = str(error)
    assert len(letter) < 5000
    return taken


WHOLE = safetensors.torch.save(
    {
        "a": torch.ones(2, 2),
        "b.é": torch.zeros(3, dtype=torch.uint8),
        "c": torch.ones(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        "d": torch.tensor(1.5, dtype=torch.float64),
        "none": torch.empty(0, 5),
    },
    {"format": "pt"},
)


def test_a_file_cut_anywhere_is_refused():
    assert survive(WHOLE)
    assert not any(survive(WHOLE[:size]) for size in range(len(WHOLE)))


@st.composite
def changed(draw, whole: bytes = WHOLE) -> bytes:
    """A file with a few changes, its header's length right or wrong."""
    nbytes = int.from_bytes(whole[:8], "little")
    text, data = bytearray(whole[8 : 8 + nbytes]), whole[8 + nbytes :]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text) - 1))
        piece = draw(
            st.sampled_from(
                (
                    *(
                        b"",
                        b"0",
                        b"1",
                        b"8",
                        b"-",
                        b",",
                        b'"',
                        b"[",
                        b"]",
                        b"{",
                        b"}",
                        b"e1",
                        b".0",
                    ),
                    *(b"null", b"NaN", b"\\ud800", b" ", b"\n", b"\0", b"\xff", b'"a"', b"9" * 20),
                    *(b"F32", b"F4", b"F6_E2M3", b'"a":{},', b'"__metadata__":{"x":"y"},', b":"),
                )
            )
        )
        text[at : at + draw(st.integers(0, 3))] = piece
    length = len(text) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    return max(0, length).to_bytes(8, "little") + bytes(text) + data


@settings(max_examples=1500)
@given(changed())
def test_what_safetensors_refuses_is_refused(data):
    taken = survive(data)
    assert not (taken and theirs_refuses(data))


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12, 16, 2**31, 2**32, 2**62, 2**63, 2**64, -1])


@settings(max_examples=1500)
@given(
    st.dictionaries(
        st.sampled_from("abc"),
        st.builds(
            entry,
            NUMBERS,
            NUMBERS,
            st.sampled_from(["F32", "F4", "F6_E2M3", "U8", "BOOL", "C64", "F8_E8M0", "X"]),
            st.lists(NUMBERS, max_size=3),
        ),
        max_size=3,
    ),
    st.sampled_from([0, 3, 4, 8, 16]),
)
def test_what_numbers_safetensors_refuses_is_refused(header, nbytes):
    data = file_of(header, bytes(nbytes))
    taken = survive(data)
    assert not (taken and theirs_refuses(data))


@settings(max_examples=300)
@given(st.binary(max_size=100), st.integers(0, 200))
def test_any_bytes_behind_a_length(data, length):
    survive(length.to_bytes(8, "little") + b"{" + data)


# ---- folders


def folder_of(path: Path, listing: object) -> Path:
    path.mkdir()
    safetensors.torch.save_file({"a": torch.ones(1)}, path / "model-1.safetensors")
    text = listing if isinstance(listing, str) else json.dumps(listing)
    (path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return path


OUTSIDE = ["../secret", "..", "/etc/passwd", "sub/../../secret", "./a", "a//b", "a\\b", "a\0b"]


@pytest.mark.parametrize("place", [*OUTSIDE, "link", "loop", "linked/secret"])
def test_no_path_in_a_listing_leads_out_of_its_folder(place, tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "secret")
    folder = folder_of(tmp_path / "m", {"weight_map": {"a": place}})
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    with pytest.raises(HoldfastError) as caught:
        load_file(folder)
    assert caught.value.what == "refused: the files of a checkpoint folder lie in it"


def test_weights_behind_a_link_that_leads_out_are_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "secret")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to("../secret")
    with pytest.raises(RefusedError) as caught:
        load_file(tmp_path / "m")
    assert str(caught.value) == (
        "refused: the files of a checkpoint folder lie in it\n"
        f"  in {tmp_path / 'm'}, member 'model.safetensors'\n"
        f"  found {tmp_path / 'secret'}\n"
        "  A link that leads elsewhere on purpose: copy the folder with cp -rL first."
    )


def test_a_download_cache_of_a_model_is_read_and_nothing_beside_it(tmp_path):
    home = tmp_path / "hub" / "models--x"
    blobs, snapshot = home / "blobs", home / "snapshots" / "abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    safetensors.torch.save_file({"a": torch.ones(1)}, blobs / "1234")
    shutil.copy(blobs / "1234", home / "secret")
    link = snapshot / "model.safetensors"
    link.symlink_to("../../blobs/1234")
    assert load_file(snapshot)["model"]["a"].tolist() == [1]
    link.unlink()
    link.symlink_to("../../secret")
    with pytest.raises(RefusedError, match="the files of a checkpoint folder lie in it"):
        load_file(snapshot)


def test_a_pipe_in_a_folder_stops_nobody(tmp_path):
    folder = folder_of(tmp_path / "m", {"weight_map": {"a": "model-1.safetensors"}})
    os.mkfifo(folder / "optimizer.pt")
    assert list(load_file(folder)) == ["a"]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "optimizer.pt"}}')
    with pytest.raises(NotACheckpointError, match="no regular file"):
        load_file(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
FILES = st.sampled_from(["model-1.safetensors", "none", "..", "", "model.safetensors.index.json"])


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {"weight_map": st.dictionaries(st.sampled_from(["a", "b", "é"]), FILES) | JSON},
        optional={"metadata": JSON},
    )
    | JSON
)
def test_any_listing_is_read_or_refused(tmp_path_factory, listing):
    folder = folder_of(tmp_path_factory.mktemp("f") / "m", listing)
    letter = ""
    for path in (folder, folder / "model.safetensors.index.json"):
        try:
            assert set(load_file(path)) <= {"a", "model", "model-1"}
        except HoldfastError as error:
            letter = str(error)
        assert len(letter) < 5000
    shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    folder = folder_of(tmp_path / "m", {})
    for name in ("iterdir", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, denied)
            with pytest.raises(FileError, match="this cannot be read: Permission denied"):
                load_file(folder)
