"""examples/cpp is built as its README says, gets what Python got, and says where it does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import holdfast

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")
NEEDED = ["cmake", "g++", "make", *(["nvcc"] if torch.version.cuda else [])]
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]

Done = subprocess.CompletedProcess[str]


def shell(text: str, folder: Path) -> Done:
    """Run commands where ``python`` is the one under test."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")}
    command = ["bash", "-ec", text]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def block(language: str) -> str:
    """The README's only block in that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's first block was run."""
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "examples").symlink_to(ROOT / "examples")
    done = shell(block("sh"), folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def files(built: Path, tmp_path: Path) -> Path:
    """What make_files.py wrote, to be changed."""
    shutil.copytree(built / "build" / "cpp" / "files", tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(
    built: Path,
    files: Path,
    *,
    program: str = "model.ts",
    in_and_out: str = "in_and_out.pt",
    weights: str = "plain.pt",
) -> Done:
    command = [str(built / "build" / "cpp" / "same_in_cpp"), program, in_and_out, weights]
    return subprocess.run(command, cwd=files, capture_output=True, text=True, timeout=60)


def comparable(printed: str) -> list[str]:
    """Without what is not the same everywhere: rounding, and the record with its time."""
    lines = re.sub(r"(?<=difference )\S+(?=,)", "…", printed).splitlines()
    return [line for line in lines if not line.startswith("record: ")]


def largest_difference(printed: str) -> float:
    return float(re.search(r"^output: largest difference (\S+),", printed, re.MULTILINE)[1])


def test_cpp_gets_what_python_got_and_the_readme_shows_it(built: Path) -> None:
    command, shown = re.fullmatch(r"\$ (.*?)\n(.*)", block("console"), re.DOTALL).groups()
    done = shell(command, built)
    assert (done.returncode, done.stderr) == (0, "")
    assert comparable(done.stdout) == comparable(shown)
    assert largest_difference(done.stdout) <= 1e-5
    assert shown.count("  equal\n") == len(torch.load(built / "build/cpp/files/plain.pt"))


def test_another_output(built: Path, files: Path) -> None:
    given = torch.load(files / "in_and_out.pt")
    given["output"][4, 2] += 0.5
    holdfast.save(given, files / "in_and_out.pt")
    done = run(built, files)
    assert done.returncode == 1
    assert largest_difference(done.stdout) == pytest.approx(0.5, abs=1e-3)
    assert "different" not in done.stdout


def test_an_output_of_another_shape_or_not_a_number(built: Path, files: Path) -> None:
    given = torch.load(files / "in_and_out.pt")
    holdfast.save({**given, "output": given["output"][:1]}, files / "short.pt")
    done = run(built, files, in_and_out="short.pt")
    assert (done.returncode, done.stderr) == (1, "short.pt: output [5, 3], not [1, 3]\n")
    holdfast.save({**given, "output": given["output"] * float("nan")}, files / "nan.pt")
    assert run(built, files, in_and_out="nan.pt").returncode == 1


def test_weights_that_differ(built: Path, files: Path) -> None:
    weights = torch.load(files / "plain.pt")
    weights["0.weight"][31, 3] += 1e-6
    weights["1.running_mean"][0] += 1e-6
    weights["3.bias"] = weights["3.bias"].double()
    weights["head"] = weights.pop("3.weight")
    holdfast.save(weights, files / "other.pt")
    done = run(built, files, weights="other.pt")
    assert done.returncode == 1
    lines = comparable(done.stdout)
    assert [line for line in lines if not line.endswith("equal")][1:] == [
        "3.weight  missing in the file",
        "0.weight  Float  [32, 4]  different",
        "1.running_mean  Float  [32]  different",
        "3.bias  Double  [3]  different",
        "head  Float  [3, 32]  not in the program",
    ]


def test_each_way_in_which_only_one_weight_differs(built: Path, files: Path) -> None:
    same = torch.load(files / "plain.pt")
    changed = {**same, "3.bias": same["3.bias"] + 1}
    less = {name: tensor for name, tensor in same.items() if name != "3.bias"}
    for weights in (changed, less, {**same, "more": same["3.bias"]}):
        holdfast.save(weights, files / "other.pt")
        assert run(built, files, weights="other.pt").returncode == 1


def test_the_record_of_a_program(built: Path, files: Path) -> None:
    program = torch.jit.load(files / "model.ts")
    torch.jit.save(program, files / "told.ts", _extra_files={"holdfast.json": '{"by": "hand"}'})
    done = run(built, files, program="told.ts")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == 'record: {"by": "hand"}'


@pytest.mark.parametrize("which", ["program", "in_and_out", "weights"])
def test_a_file_that_is_not_there(built: Path, files: Path, which: str) -> None:
    done = run(built, files, **{which: "gone"})
    assert done.returncode == 1
    assert re.fullmatch(r"gone: .*No such file or directory.*\n", done.stderr)


def test_a_checkpoint_is_not_plain(built: Path, files: Path) -> None:
    done = run(built, files, weights="weights.pt")
    assert done.returncode == 1
    assert done.stderr == (
        "weights.pt: no dict of tensors that LibTorch reads; convert --plain makes them\n"
    )


def test_half_a_program(built: Path, files: Path) -> None:
    (files / "half.ts").write_bytes((files / "model.ts").read_bytes()[:5000])
    done = run(built, files, program="half.ts")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"half\.ts: .+\n", done.stderr)


def test_it_is_one_screen() -> None:
    assert len((EXAMPLE / "main.cpp").read_text(encoding="utf-8").splitlines()) <= 60
    assert len((EXAMPLE / "make_files.py").read_text(encoding="utf-8").splitlines()) <= 40
