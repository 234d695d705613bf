"""``holdfast export`` and ``holdfast call``, as a shell runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.cli import main

NET = """
import torch
from torch import nn
import neighbour  # beside the script


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return {"scores": self.out(x), "sum": x.sum(1)}


def make():
    return Net()


class Sized(nn.Linear):
    pass


def in_training():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def nothing():
    return None


def fails():
    raise ValueError("no such width")


class Index(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 2)

    def forward(self, ids):
        return self.table(ids)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("place")
    (folder / "net.py").write_text(NET)
    (folder / "neighbour.py").write_text("")
    (folder / "needs.py").write_text("import torch\nimport no_such_package\n")
    (folder / "parses.py").write_text("import sys\nsys.exit(2)\n")
    (folder / "broken.py").write_text("def make(:\n")
    model = torch.nn.Module()
    model.out = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(model.out.weight, 0.5)
    torch.nn.init.constant_(model.out.bias, 1.0)
    with holdfast.Run(folder / "run", background=False, model=model) as run:
        run.save(7, metrics={"loss": 0.5})
    (folder / "empty.npy").touch()
    with (folder / "several.npy").open("wb") as file:
        np.savez(file, a=np.ones(4), b=np.ones(4))
    np.save(folder / "x.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
    return folder


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "holdfast", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.mark.parametrize("name", ["a.ts", "a.pt2", "a.onnx"])
def test_export_then_call(place: Path, name: str) -> None:
    done = run(place, "export", "net.py:make", "run", name, "--input", "1x4", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["path"] == name
    assert said["record"]["parent"]["step"] == 7
    assert said["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    assert [each["name"] for each in said["checked"]["outputs"]] == ["scores", "sum"]
    done = run(place, "call", name, "--input", "x=x.npy", "--trust", "--json")
    assert done.returncode == 0, done.stderr
    scores, total = json.loads(done.stdout)["outputs"]
    assert scores == {
        "name": "scores",
        "dtype": "float32",
        "shape": [2, 3],
        "values": [[4.0] * 3, [12.0] * 3],
    }
    assert total["values"] == [6.0, 22.0]


def test_what_a_person_reads(place: Path) -> None:
    done = run(place, "export", "net.py:Net", "run@7", "b.ts", "--input", "2x4")
    assert done.stdout.splitlines()[1:5] == [
        "  takes x: float32 [batch, 4]",
        "  gives scores: float32 [batch, 3]",
        "  gives sum: float32 [batch]",
        "  compared with the model on the example, random values, the example negated, batch=1, "
        "batch=3, batch=5, batch=4:",
    ]
    done = run(place, "call", "b.ts", "--input", "x.npy", "--trust")
    assert done.stdout == "scores  float32  2x3  4 4 4 12 12 12\nsum     float32  2    6 22\n"


def test_outputs_are_saved(place: Path) -> None:
    run(place, "export", "net.py:Net", "-", "c.onnx", "--input", "2x4", "--opset", "17")
    done = run(place, "call", "c.onnx", "--input", "x.npy", "--save", "out.npz")
    assert (done.returncode, done.stdout) == (0, "")
    assert "saved scores, sum to out.npz" in done.stderr
    with np.load(place / "out.npz") as saved:
        assert saved["sum"].tolist() == [6.0, 22.0]
    done = run(place, "call", "c.onnx", "--input", "x.npy", "--save", "out.npy")
    assert done.returncode == 2
    assert "one .npy file holds one output" in done.stderr
    done = run(place, "call", "c.onnx", "--input", "x.npy", "--save", "no/such/out.npz")
    assert done.returncode == 1
    assert "the outputs cannot be saved" in done.stderr


def test_integers_and_dimensions(place: Path) -> None:
    done = run(
        place,
        *("export", "net.py:Index", "-", "d.onnx", "--input", "ids=3x5:int64:50", "--json"),
        *("--dynamic", "ids:0=batch", "--dynamic", "ids:1=length", "--output-name", "vectors"),
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["inputs"][0]["shape"] == ["batch", "length"]
    assert said["outputs"][0]["name"] == "vectors"
    done = run(place, "call", "d.onnx", "--input", "1x2:int64:50", "--json")
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [1, 2, 2]


ERRORS: list[tuple[tuple[str, ...], int, str]] = [
    (("export", "net.py", "-", "e.ts", "--input", "1x4"), 2, "this names no code that makes a"),
    (("export", "gone.py:Net", "-", "e.ts", "--input", "1x4"), 2, "there is no such script"),
    (("export", "gone:Net", "-", "e.ts", "--input", "1x4"), 2, "there is no such module"),
    (("export", "net.py:Gone", "-", "e.ts", "--input", "1x4"), 2, "there is no 'Gone' in this"),
    (("export", "net.py:nothing", "-", "e.ts", "--input", "1x4"), 2, "nothing makes no model"),
    (
        ("export", "net.py:Net", "-", "e.ts", "--input", "9" * 30 + "x4"),
        2,
        "no array of this shape",
    ),
    (
        ("export", "net.py:Net", "-", "e.ts", "--input", "1x4", "--dynamic", "x:--1=b"),
        2,
        "does not",
    ),
    (
        ("export", "net.py:Net", "-", "e.ts", "--input", "empty.npy"),
        1,
        "this is no file of numbers",
    ),
    (("export", "net.py:Net", "-", "e.ts", "--input", "several.npy"), 1, "an .npz file of a, b"),
    (("export", "net.py:fails", "-", "e.ts", "--input", "1x4"), 2, "ValueError: no such width ("),
    (("export", "needs.py:make", "-", "e.ts", "--input", "1x4"), 2, "'no_such_package' (line 2)"),
    (("export", "parses.py:make", "-", "e.ts", "--input", "1x4"), 2, "SystemExit: 2 (line 2)"),
    (("export", "broken.py:make", "-", "e.ts", "--input", "1x4"), 2, "Does python broken.py work"),
    (("export", "net.py:Sized", "-", "e.ts", "--input", "1x4"), 2, "cannot be called without arg"),
    (("export", "net.py:neighbour", "-", "e.ts", "--input", "1x4"), 2, "neighbour makes no model"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "1x4", "--trace", "gone"), 2, "no method to"),
    (("export", "net.py:Net", "gone", "e.ts", "--input", "1x4"), 1, "no such file or folder"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "1xx4"), 2, "this is no input"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "1x4:text"), 2, "this is no input"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "1x4:float32:9"), 2, "this is no input"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "1x9"), 1, "fails on the example"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "gone.npy"), 1, "this input cannot be read"),
    (("export", "net.py:Net", "-", "e.ts", "--input", "a=1", "--input", "2"), 2, "has a name of"),
    (
        ("export", "net.py:Net", "-", "e.ts", "--input", "1x4", "--dynamic", "x"),
        2,
        "does not say which dimension is dynamic",
    ),
    (("call", "gone.ts", "--input", "1x4"), 1, "there is no such file"),
    (("call", "net.py", "--input", "1x4"), 1, "Error:"),
    (("call", "x.npy", "--save", "a.txt"), 2, "outputs are saved as .npy or .npz"),
]


@pytest.mark.parametrize(("args", "code", "words"), ERRORS, ids=[" ".join(e[0]) for e in ERRORS])
def test_errors_are_letters(
    place: Path, args: Any, code: int, words: str, monkeypatch, capsys
) -> None:
    """In this process: importing torch for each would take a minute."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("net", "neighbour"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (code, "")
    assert words in said.err
    assert "Traceback" not in said.err
    assert not (place / "e.ts").exists()


def test_what_is_traced_the_format_and_the_mode_can_be_said(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("net", "neighbour"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    options = ("--input", "5x4", "--json")
    for args in (
        (
            "export",
            "net.py:make",
            "run",
            "g.bin",
            "--format",
            "pt2",
            "--trust",
            "net.py:Net",
            *options,
        ),
        ("export", "net.py:in_training", "-", "g.ts", "--train", "--trace", "0", *options),
    ):
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        assert ended.value.code == 0
    assert holdfast.load_program(place / "g.bin").format == "torch.export"
    program = holdfast.load_program(place / "g.ts")
    assert program.metadata["is_training"]
    assert program.metadata["method"] == "script (0 traced)"
    assert program.module.training


def test_pickled_objects_in_an_array_file_are_refused(place: Path) -> None:
    np.save(place / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = run(place, "call", "x.npy", "--input", "object.npy")
    assert done.returncode == 1
    done = run(place, "export", "net.py:Net", "-", "e.ts", "--input", "object.npy")
    assert done.returncode == 1
    assert "this is no file of numbers" in done.stderr


def test_code_of_others_needs_trust(place: Path) -> None:
    run(place, "export", "net.py:Net", "-", "f.ts", "--input", "1x4")
    done = run(place, "call", "f.ts", "--input", "1x4")
    assert done.returncode == 1
    assert "running it runs code that is in the file" in done.stderr
