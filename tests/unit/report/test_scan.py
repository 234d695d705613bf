from __future__ import annotations

import gzip
import io
import json
import pickle
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scanning import scan

import holdfast
from holdfast.errors import NotACheckpointError
from holdfast.report.scan import Named, Place, Problem, ScanReport


def saved(tree, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer, **options)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def exported() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), buffer)
    return buffer.getvalue()


STATE = {"model": torch.nn.Linear(2, 2).state_dict(), "epoch": 3}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("is_packed", [True, False])
def test_what_torch_saves_of_a_state_is_clean(is_zip, is_packed):
    data = saved(STATE, _use_new_zipfile_serialization=is_zip)
    report = scan(gzip.compress(data) if is_packed else data)
    assert (report.verdict, report.ok, report.problems) == ("clean", True, ())
    assert {s.symbol for s in report.symbols} == {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch.FloatStorage",
    }
    assert report.pickles == (1 if is_zip else 5)


def test_a_whole_model_is_of_unknown_symbols():
    report = scan(saved(torch.nn.Linear(2, 2)))
    assert report.verdict == "unknown symbols"
    [outside] = [s for s in report.symbols if not s.is_allowed]
    assert outside == Named(
        "torch.nn.modules.linear",
        "Linear",
        ("called", "built"),
        None,
        False,
        "outside the closed table: nothing is known of it",
    )


@pytest.mark.parametrize(("make", "name"), [(scripted, "code/"), (exported, "models/")])
def test_programs_are_never_clean(make, name):
    report = scan(make())
    assert (report.verdict, report.ok, report.problems) == ("program", False, ())
    assert any(name in program for program in report.programs)
    assert "it is code for a runtime" in report.to_text()


def test_an_onnx_file_is_a_program():
    report = scan(b"\x08\x0a\x12\x07pytorch")
    assert (report.kind, report.verdict, report.programs) == ("onnx", "program", ("the graph",))


NO_PICKLES = {
    "safetensors": (save({"w": torch.ones(2)}), "safetensors"),
    "a web page": (b"<!doctype html>", "a web page, not the file that was to be downloaded"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file (llama.cpp)"),
    "nothing": (b"", "an empty file"),
}


@pytest.mark.parametrize("name", NO_PICKLES)
def test_a_file_without_pickles_says_what_it_is(name):
    data, kind = NO_PICKLES[name]
    report = scan(data)
    assert (report.verdict, report.kind, report.pickles) == ("clean", kind, 0)
    assert (
        report.to_text()
        == f"file: clean ({kind}): no pickle found, so torch and pickle run nothing of it"
    )


def test_a_header_that_is_no_json_is_broken():
    report = scan(b'\x08\x00\x00\x00\x00\x00\x00\x00{"a":::::')
    assert (report.verdict, report.kind, report.pickles) == ("broken", "safetensors", 0)


@pytest.mark.parametrize("numbers", [[5, 123, 7], [0, 123], [2, 0x7D7B]])
def test_numbers_that_look_like_a_header_inside_a_checkpoint_are_numbers(numbers):
    assert scan(saved({"n": torch.tensor(numbers)})).verdict == "clean"


def test_a_model_folder(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(saved(STATE["model"]))
    (tmp_path / "config.json").write_text("{}")
    assert holdfast.scan(tmp_path).verdict == "clean"
    (tmp_path / "modeling.py").write_text("import torch\n")
    report = holdfast.scan(tmp_path)
    assert (report.verdict, report.programs) == ("program", (str(tmp_path / "modeling.py"),))
    (tmp_path / "optimizer.pt").write_bytes(saved(torch.nn.ReLU()))
    assert holdfast.scan(tmp_path).verdict == "unknown symbols"


def test_a_checkpoint_that_is_open_scans_itself(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(saved(STATE))
    with holdfast.open(path) as checkpoint:
        assert checkpoint.scan() == holdfast.scan(path)


SENTENCES = {
    b"c__builtin__\nset\n": (True, "part of ordinary torch files"),
    b"cfractions\nFraction\n": (False, "outside the closed table: nothing is known of it"),
    b"cposix\nsystem\n": (False, "can run commands or code on this machine"),
    b"cbuiltins\ngetattr\n": (False, "outside the closed table: nothing is known of it"),
    b"cbuiltins\ngetattr\nN\x85R": (False, "can run commands or code on this machine"),
    b"ctorch\nTensor\n}b": (False, "a class that the file would change for the whole process"),
    b"\x82\x01": (False, "a number that stands for any class: nothing is known of it"),
    b"Pid\n)R": (False, "its name is made only when the pickle runs: nothing is known of it"),
    b"ctorch.storage\n_load_from_bytes\n": (
        False,
        "outside the closed table: it loads a file inside this one, which is scanned as well",
    ),
}


@pytest.mark.parametrize("opcodes", SENTENCES)
def test_each_symbol_has_a_sentence_and_only_the_table_decides(opcodes):
    [symbol] = scan(b"\x80\x02" + opcodes + b".").symbols
    assert (symbol.is_allowed, symbol.verdict) == SENTENCES[opcodes]


def test_the_json_has_stable_keys():
    named = Named("builtins", "set", ("called",), "__builtin__.set", True, "fine")
    report = ScanReport(
        "d",
        "dcp",
        (Place("d/x", "a/data.pkl", 70, 1, (named,)),),
        ("p",),
        (Problem("d/x", "", "w"),),
    )
    assert json.loads(json.dumps(report.to_json())) == {
        "file": "d",
        "kind": "dcp",
        "verdict": "broken",
        "ok": False,
        "pickles": 1,
        "places": [
            {
                "file": "d/x",
                "member": "a/data.pkl",
                "offset": 70,
                "pickles": 1,
                "symbols": [
                    {
                        "module": "builtins",
                        "name": "set",
                        "how": ["called"],
                        "written": "__builtin__.set",
                        "is_allowed": True,
                        "verdict": "fine",
                    }
                ],
            }
        ],
        "programs": ["p"],
        "problems": [{"file": "d/x", "member": "", "what": "w"}],
    }


def test_the_text():
    data = pickle.dumps({1, 2}, 2) + b"\x80\x02cfractions\nFraction\n)R."
    assert scan(data).to_text().splitlines() == [
        "file: unknown symbols (pickle): 1 of 2 symbols outside the closed table",
        "  symbols",
        "    NOT fractions.Fraction, called: outside the closed table: nothing is known of it",
        "    ok  builtins.set (written __builtin__.set), called: part of ordinary torch files",
    ]
    assert scan(b"\x80\x02N").to_text().splitlines() == [
        "file: broken (pickle): not all of it could be looked through",
        "  not sure: the pickle: it cannot be followed behind byte 2: it ends before its end",
    ]


def test_the_place_of_a_pickle_in_its_file_is_told():
    data = saved(STATE)
    [place] = scan(data).places
    assert data[place.offset : place.offset + 3] == b"\x80\x02}"
    [place] = scan(gzip.compress(data)).places
    assert place.offset is None


# ---- what is neither the file's own pickle nor a tensor


class Evil:
    """Its pickle names a function; it is only ever scanned."""

    def __reduce__(self):
        return print, ("ran",)


def array_of_objects(*, is_record: bool = False) -> bytes:
    dtype = [("x", "<f4"), ("y", "O")] if is_record else object
    array = np.empty(1, dtype)
    array[0] = (1.0, Evil()) if is_record else Evil()
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def archived(save, array) -> bytes:
    buffer = io.BytesIO()
    save(buffer, array=array)
    return buffer.getvalue()


def numbers(*, shape=(2, 3), version=None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ones(shape, "<f4"), version=version)
    return buffer.getvalue()


def in_a_zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data/0", data)
    return buffer.getvalue()


OBJECTS = np.array([Evil()], dtype=object)
ARRAYS = {
    ".npy": array_of_objects,
    "a record with one": lambda: array_of_objects(is_record=True),
    ".npz": lambda: archived(np.savez, OBJECTS),
    "packed .npz": lambda: archived(np.savez_compressed, OBJECTS),
    "in another zip": lambda: in_a_zip(array_of_objects()),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_of_objects_is_a_pickle(kind):
    report = scan(ARRAYS[kind]())
    assert [s.symbol for s in report.symbols if not s.is_allowed] == ["builtins.print"]
    assert (report.verdict, report.problems) == ("unknown symbols", ())


def test_an_array_of_objects_in_a_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save({"w": torch.ones(3)}))
    assert holdfast.scan(tmp_path).verdict == "clean"
    (tmp_path / "a.npy").write_bytes(array_of_objects())
    assert holdfast.scan(tmp_path).verdict == "unknown symbols"


@pytest.mark.parametrize("dtype", ["f4", "i8", "S9", [("x", "f4"), ("name O", "i2")]])
def test_an_array_of_numbers_is_clean(dtype):
    array = np.zeros(50, dtype)
    buffer = io.BytesIO()
    np.save(buffer, array)
    for data in (
        buffer.getvalue(),
        archived(np.savez, array),
        archived(np.savez_compressed, array),
    ):
        report = scan(data)
        assert (report.verdict, report.pickles) == ("clean", 0)


@pytest.mark.parametrize(
    "head",
    [
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00\x02\x00{}",
        b"\x93NUMPY\x01\0\xff\xff{",
        b"\x93NUMPY\x01\0\x02\x00{}",
        b"\x93NUMPY\x01\0\xff\x00" + b"(" * 255,
        b"\x93NUMPY\x01\0\x88\x13" + b"-" * 5000,
        b"\x93NUMPY\x01\0\x3b\x00{'descr': 'no', 'fortran_order': False, 'shape': (3,)}     ",
        b"\x93NUMPY\x01\0\x3b\x00{'descr': 3.5,  'fortran_order': False, 'shape': (3,)}     ",
    ],
)
def test_a_numpy_header_that_is_none_is_no_reason_to_call_it_clean(head):
    assert scan(head).verdict == "broken"


@pytest.mark.parametrize("descr", ["'M8[25s/0]'", "'f4,O'", "'object'", "[('a', 'f4', (2,), 1)]"])
def test_a_type_that_numpy_does_not_write_is_never_made(descr):
    """numpy.dtype("M8[25s/0]") divides by zero, and the process ends."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (3,)}}\n".encode()
    head = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text
    assert scan(head + b"\xff" * 12).verdict == "broken"
    assert scan(head + pickle.dumps(Evil())).verdict == "unknown symbols"


@pytest.mark.parametrize(
    "dtype",
    [*("?", "<U5", ">c16", "M8[ns]", "V7"), [("a", "i1", (2, 3)), ("b", [("c", "f8")])]],
)
def test_where_an_array_ends_is_known_of_every_plain_type(dtype):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 3), dtype))
    [problem] = scan(buffer.getvalue() + b"\xff" * 5).problems
    assert problem.what == "5 bytes behind its end are nothing that is known"


def test_letters_of_numpy_files_advise_no_pickles(tmp_path):
    (tmp_path / "a.npz").write_bytes(archived(np.savez, np.zeros(1)))
    (tmp_path / "a.npy").write_bytes(array_of_objects())
    for name in ("a.npz", "a.npy"):
        with pytest.raises(NotACheckpointError, match=r"numpy.load\(FILE, allow_pickle=False\)"):
            holdfast.open(tmp_path / name)


FIRST = {
    "legacy": lambda: saved(STATE, _use_new_zipfile_serialization=False),
    "legacy without a tensor": lambda: saved({"a": 1}, _use_new_zipfile_serialization=False),
    "zip": lambda: saved(STATE),
    "safetensors": lambda: save({"w": torch.ones(3)}),
    "pickle": lambda: pickle.dumps({"a": 1}),
    "numbers": lambda: numbers(),
    "no numbers": lambda: numbers(shape=(0, 3)),
}


@pytest.mark.parametrize("first", FIRST)
def test_what_follows_a_file_is_looked_through(first):
    """A reader that was handed an open file stops at its end: the next one reads on from there."""
    whole = FIRST[first]()
    assert scan(whole).verdict == "clean"
    for evil in (pickle.dumps(Evil(), 0), pickle.dumps(Evil(), 4), array_of_objects()):
        report = scan(whole + evil)
        assert "builtins.print" in {s.symbol for s in report.symbols}, first
        assert report.verdict == "unknown symbols"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_numpy_headers_says_where_its_numbers_end(version):
    data = numbers(version=version)
    assert scan(data).verdict == "clean"
    assert scan(data + pickle.dumps(Evil())).verdict == "unknown symbols"
    assert scan(in_a_zip(data + pickle.dumps(Evil()))).verdict == "unknown symbols"


@pytest.mark.parametrize("first", ["legacy", "safetensors", "numbers", "pickle"])
def test_zeros_behind_a_file_are_padding(first):
    padded = FIRST[first]() + bytes(4096)
    assert scan(padded).verdict == "clean"
    assert scan(padded + pickle.dumps(Evil())).verdict != "clean"


@pytest.mark.parametrize("first", ["legacy", "legacy without a tensor", "pickle", "numbers"])
def test_what_follows_a_file_is_counted_once(first):
    alone = scan(FIRST[first]()).pickles
    assert scan(FIRST[first]() + pickle.dumps({"a": 1})).pickles == alone + 1


@pytest.mark.parametrize("first", ["legacy", "safetensors", "zip", "numbers"])
def test_what_follows_a_file_and_is_nothing_known_is_not_clean(first):
    report = scan(FIRST[first]() + b"\xff" * 30)
    assert report.verdict == "broken"
    assert "30 bytes behind its end are nothing that is known" in report.to_text()


def test_two_legacy_files_in_one_are_clean():
    """As people wrote several states into one open file."""
    report = scan(FIRST["legacy"]() + FIRST["legacy"]())
    assert (report.verdict, report.pickles) == ("clean", 10)


def test_several_arrays_in_one_file_are_clean():
    """As numpy.save writes them, one call after the other on one open file."""
    assert scan(numbers() * 3).verdict == "clean"
    assert scan(numbers() * 3 + pickle.dumps(Evil())).verdict == "unknown symbols"
    assert scan(array_of_objects() + numbers() + b"\xff").verdict == "unknown symbols"


def test_a_namespace_is_not_called_harmful():
    report = scan(pickle.dumps(types.SimpleNamespace(a=1)))
    [symbol] = report.symbols
    assert (symbol.symbol, symbol.verdict, report.verdict) == (
        "types.SimpleNamespace",
        "outside the closed table: nothing is known of it",
        "unknown symbols",
    )
    assert scan(b"\x80\x04\x8c\x05types\x8c\x08CodeType\x93.").verdict == "harmful"


def test_a_pickle_of_plain_values_names_nothing():
    assert scan(pickle.dumps([1, 2])).to_text() == (
        "file: clean (pickle): 1 pickle, which names nothing to call"
    )


def test_names_of_fields_may_hold_what_is_no_literal_outside():
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3, [("a--b", "<f4"), ('c"+ +', "<i4")]))
    assert scan(buffer.getvalue()).verdict == "clean"
