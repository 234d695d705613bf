"""Every format, written by its own program, read in an environment where torch is not installed.

``.venv-light`` has holdfast and what it always needs, and nothing else; the Makefile makes it.
There ``show``, ``verify``, ``scan``, ``convert`` and ``holdfast.open`` run; the values they give
are compared with those that the format's own program reads.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import samples
import torch

from holdfast.tensors.load import load_file

LIGHT = Path(__file__).parents[2] / ".venv-light" / "bin"

pytestmark = pytest.mark.filterwarnings("ignore")  # what the programs say of their own formats

_READ = """
import json, sys
import numpy as np
import holdfast
assert "torch" not in sys.modules
arrays, facts = {}, {}
with holdfast.open(sys.argv[1]) as checkpoint:
    for name in checkpoint.names():
        array = checkpoint.array(name)
        facts[name] = [str(array.dtype), list(array.shape)]
        arrays[name] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    facts = {"format": checkpoint.index.format, "tensors": facts}
np.savez(sys.argv[2], **arrays)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module", params=list(samples.WRITERS))
def sample(request, folder) -> samples.Sample:
    return samples.write(request.param, folder)


def run(*command: object, code: int | None = 0) -> str:
    """What a command of the environment without torch prints."""
    if not LIGHT.exists():
        pytest.skip("there is no .venv-light: make test makes it")
    done = subprocess.run(
        [LIGHT / str(command[0]), *map(str, command[1:])], capture_output=True, text=True
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout


def bits(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach().resolve_conj().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_there_is_no_torch_there():
    done = run("python", "-c", "import importlib.util as i; print(i.find_spec('torch'))")
    assert done == "None\n"


def test_the_values_are_those_the_format_s_own_program_reads(sample, tmp_path):
    facts = json.loads(run("python", "-c", _READ, sample.path, tmp_path / "a.npz"))
    assert facts["format"] == sample.format
    assert facts["tensors"].keys() >= sample.tensors.keys()
    with np.load(tmp_path / "a.npz") as arrays:
        for name, tensor in sample.tensors.items():
            dtype, shape = facts["tensors"][name]
            assert (dtype, shape) == (str(tensor.dtype)[6:], list(tensor.shape)), name
            assert arrays[name].tobytes() == bits(tensor), name


def test_torch_reads_the_same_through_us(sample):
    loaded = load_file(sample.path, opaque="state_dict")
    if sample.format == "torchscript":
        return  # its tree holds more than its state dict: its names are compared above
    found = samples.flat(loaded)
    for name, tensor in sample.tensors.items():
        assert found[name].dtype == tensor.dtype
        assert bits(found[name]) == bits(tensor), name


def test_show(sample):
    shown = json.loads(run("holdfast", "show", sample.path, "--json"))
    assert shown["format"] == sample.format
    assert {t["name"] for t in shown["tensors"]} >= sample.tensors.keys()
    text = run("holdfast", "show", sample.path)
    assert str(sample.path) in text


def test_verify(sample):
    answer = json.loads(run("holdfast", "verify", sample.path, "--json"))
    assert answer["files"][0]["report"]["status"] == sample.status


def test_scan(sample):
    answer = json.loads(
        run("holdfast", "scan", sample.path, "--json", code=0 if sample.is_clean else 1)
    )
    assert answer


@pytest.mark.parametrize("target", ["out.safetensors", "out.pt"])
def test_convert(sample, target, tmp_path):
    wanted = sample.weights or sample.tensors
    part = ["--part", sample.part] if sample.part else []
    run("holdfast", "convert", sample.path, tmp_path / target, *part)
    if target.endswith(".pt"):
        made = samples.flat(torch.load(tmp_path / target, weights_only=True))
    else:
        from safetensors import safe_open
        from safetensors.torch import load_file as load_safetensors

        made = load_safetensors(tmp_path / target)
        with safe_open(tmp_path / target, "pt") as file:
            ties = file.metadata()
        made.update({name: made[ties[name]] for name in wanted if name in ties})
    for name, tensor in wanted.items():
        assert made[name].dtype == tensor.dtype
        assert bits(made[name]) == bits(tensor), name


def test_every_sample_reads_the_same_in_this_environment(folder):
    """Torch beside it changes nothing."""
    sample = samples.write("zip.pt", folder)
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "show", sample.path], capture_output=True, text=True
    )
    assert done.stdout == run("holdfast", "show", sample.path)
