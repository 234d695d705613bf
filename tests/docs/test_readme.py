"""Every code block of the README is run: Python and shell as they stand, console compared."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast import looking

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SOURCE = ROOT / "src"

#: What the README's blocks may take for granted, as its reader has it: a model and what trains it.
GIVEN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
dataset = TensorDataset(torch.randn(64, 4), torch.randint(3, (64,)))
loader = DataLoader(dataset, batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.5)


def train_one_batch(model, optimizer, inputs, labels):
    loss = nn.functional.cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train_one_epoch(model, optimizer, loader):
    return sum(train_one_batch(model, optimizer, *batch) for batch in loader) / len(loader)
"""


#: The class of the whole model that the README looks at; it is gone by then.
NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.BatchNorm1d(32))
        self.head = nn.Linear(32, 3)
"""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


def blocks(language: str | None = None) -> list[Block]:
    text = README.read_text()
    found = [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    return [block for block in found if language in (None, block.language)]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which ``python`` and ``holdfast`` are those under test."""
    bin_folder = tmp_path_factory.mktemp("bin")
    commands = {"python": [sys.executable], "holdfast": [sys.executable, "-m", "holdfast"]}
    for name, command in commands.items():
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(SOURCE)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tools: dict[str, str]) -> Path:
    """A folder in which examples/iris.py was run to its end; in ``damaged`` one byte flipped."""
    folder = tmp_path_factory.mktemp("trained")
    script = ROOT / "examples" / "iris.py"
    subprocess.run([sys.executable, script], cwd=folder, env=tools, check=True, capture_output=True)
    shutil.copytree(folder / "runs" / "iris", folder / "damaged")
    flip_a_byte(folder / "damaged" / "step-00000099.pt")
    (folder / "nets.py").write_text(NETS)
    (folder / "old").mkdir()
    code = "import nets, torch; torch.manual_seed(0); torch.save(nets.Net(), 'old/model.pth')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=tools, check=True)
    (folder / "nets.py").unlink()
    return folder


def test_no_block_is_of_a_kind_that_nothing_runs() -> None:
    assert {block.language for block in blocks()} == {"python", "sh", "console", "text"}
    assert len(blocks("text")) == 1, "only the picture is not run"


def test_eight_lines_of_python_by_line_25() -> None:
    first = blocks("python")[0]
    assert len(first.text.splitlines()) <= 8
    assert first.line + len(first.text.splitlines()) <= 25


def test_python_blocks(tmp_path: Path, tools: dict[str, str]) -> None:
    """All in one process, in order, as somebody who reads from the top would run them."""
    code = GIVEN + "".join(
        "\n" * 3 + f"print('--- README line {block.line}')\n" + block.text
        for block in blocks("python")
    )
    done = run_python(code, tmp_path, tools)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs" / "iris" / "step-00000099.pt").is_file()
    assert (tmp_path / "runs" / "batches" / "step-00000039.pt").is_file()
    assert done.stderr.splitlines() == [
        line for line in done.stderr.splitlines() if line.startswith("No checkpoint in ")
    ], "the README's blocks run without a warning but that they start at 0"


def run_python(code: str, folder: Path, tools: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = folder / "readme.py"
    script.write_text(code)
    # torchdata 0.11 calls what torch 2.13 has deprecated; no reader can mend that.
    quiet = ["-W", "ignore:'set_vital':UserWarning"]
    command = [sys.executable, *quiet, str(script)]
    return subprocess.run(command, cwd=folder, env=tools, capture_output=True, text=True)


def test_the_loop_over_batches_goes_on_in_the_middle_of_an_epoch(
    tmp_path: Path, tools: dict[str, str]
) -> None:
    """Killed at step 26 (four batches are an epoch), back at 20: the weights are the same."""
    import torch

    loop = next(block.text for block in blocks("python") if "StatefulDataLoader" in block.text)
    save = "    run.save("
    assert save in loop
    killed = loop.replace(save, f"    step == 26 and __import__('os')._exit(9)\n{save}")
    code = {"whole": [loop], "killed": [killed, loop]}
    weights = {}
    for name, scripts in code.items():
        folder = tmp_path / name
        folder.mkdir()
        codes = [run_python(f"{GIVEN}\nimport holdfast\n{s}", folder, tools) for s in scripts]
        assert [done.returncode for done in codes] == [9, 0][-len(scripts) :], codes
        latest = torch.load(folder / "runs/batches/step-00000039.pt", weights_only=True)
        weights[name] = latest["model"]
    assert all(torch.equal(weights["whole"][k], weights["killed"][k]) for k in weights["whole"])


def console_cases() -> list[tuple[str, str]]:
    cases = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            cases.append((command, output))
    return cases


@pytest.mark.parametrize(("command", "output"), console_cases(), ids=lambda text: text[:40])
def test_console_blocks(command: str, output: str, trained: Path, tools: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>&1"], cwd=trained, env=tools, capture_output=True, text=True
    )
    assert stable(done.stdout) == stable(output)


def stable(output: str) -> list[str]:
    """Lines without what differs between machines and moments: numbers, origins, spaces."""
    lines = []
    for line in output.strip().splitlines():
        line = re.sub(r"^(git|torch) .*holdfast .*", "<origin>", line)
        line = re.sub(r"\b[0-9a-f]{8}\b", "<crc>", line)
        line = re.sub(r"\d+([.,]\d+)*(e-\d+)?", "<number>", line)
        lines.append(re.sub(r"\s+", " ", line).strip())
    return lines


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[looking.open(path).index.extents["0"].offset] ^= 1
    path.write_bytes(data)


def test_the_shell_loop_goes_on_until_done(tmp_path: Path, tools: dict[str, str]) -> None:
    loop = next(block.text for block in blocks("sh") if "until" in block.text)
    (tmp_path / "train.py").write_text(
        "from pathlib import Path; import sys\n"
        "count = Path('count'); n = len(count.read_text()) if count.exists() else 0\n"
        "count.write_text('x' * (n + 1)); sys.exit(75 if n < 2 else 0)\n"
    )
    subprocess.run(["bash", "-ec", loop], cwd=tmp_path, env=tools, check=True, timeout=60)
    assert (tmp_path / "count").read_text() == "xxx"


def test_the_shell_loop_stops_at_a_real_error(tmp_path: Path, tools: dict[str, str]) -> None:
    loop = next(block.text for block in blocks("sh") if "until" in block.text)
    (tmp_path / "train.py").write_text("raise SystemExit(1)\n")
    subprocess.run(["bash", "-c", loop], cwd=tmp_path, env=tools, check=False, timeout=60)


def test_the_other_shell_blocks_name_what_is_there(tmp_path: Path, tools: dict[str, str]) -> None:
    """Installing would take minutes: make says what it would do, the extras' names are checked."""
    shims = f'make() {{ command make -n -C "{ROOT}" "$@"; }}\npip() {{ echo "pip $*"; }}\n'
    for block in blocks("sh"):
        if "until" in block.text:
            continue
        done = subprocess.run(
            ["bash", "-ec", shims + block.text],
            env=tools,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip()
    extras = re.findall(r"pip install '\.\[([\w,]+)\]'", README.read_text())
    declared = (ROOT / "pyproject.toml").read_text()
    assert extras
    for extra in {name for group in extras for name in group.split(",")}:
        assert f"\n{extra} = [" in declared


def test_every_file_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []
