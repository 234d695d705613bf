from __future__ import annotations

import gzip
import io
import json
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save

import holdfast
from holdfast.io.source import Memory
from holdfast.report.crawl import scan_source
from holdfast.report.scan import Named, Place, Problem, ScanReport


def scan(data: bytes) -> ScanReport:
    return scan_source(Memory(data, "f"))


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
    "broken JSON": (b'\x08\x00\x00\x00\x00\x00\x00\x00{"a":::::', "safetensors"),
    "a web page": (b"<!doctype html>", "a web page, not the file that was to be downloaded"),
    "GGUF": (b"GGUF\x03\x00\x00\x00", "a GGUF file (llama.cpp)"),
    "nothing": (b"", "an empty file"),
}


@pytest.mark.parametrize("name", NO_PICKLES)
def test_a_file_without_pickles_says_what_it_is(name):
    data, kind = NO_PICKLES[name]
    report = scan(data)
    assert (report.verdict, report.kind, report.pickles) == ("clean", kind, 0)
    assert report.to_text() == f"f: clean ({kind}): no pickle found, so it cannot run anything"


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
        "f: unknown symbols (pickle): 1 of 2 symbols outside the closed table",
        "  symbols",
        "    NOT fractions.Fraction, called: outside the closed table: nothing is known of it",
        "    ok  builtins.set (written __builtin__.set), called: part of ordinary torch files",
    ]
    assert scan(b"\x80\x02N").to_text().splitlines() == [
        "f: broken (pickle): not all of it could be looked through",
        "  not sure: the pickle: it cannot be followed behind byte 2: it ends before its end",
    ]


def test_the_place_of_a_pickle_in_its_file_is_told():
    data = saved(STATE)
    [place] = scan(data).places
    assert data[place.offset : place.offset + 3] == b"\x80\x02}"
    [place] = scan(gzip.compress(data)).places
    assert place.offset is None
