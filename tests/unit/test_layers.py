"""What looks at files works without torch; a skipped test in CI is a failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCH_FREE = (
    *("errors", "spec", "io", "pickles", "formats", "report", "arrays", "converting"),
    *("runs", "looking", "cli"),
)


def modules_of(layer: str) -> list[str]:
    source = ROOT / "src"
    files = [source / "holdfast" / f"{layer}.py", *(source / "holdfast" / layer).rglob("*.py")]
    names = [file.relative_to(source).with_suffix("") for file in files if file.exists()]
    return [".".join(name.parts).removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("layer", TORCH_FREE)
def test_every_module_that_looks_can_be_imported_where_torch_is_not(layer: str) -> None:
    modules = modules_of(layer)
    assert modules
    code = (
        "import sys, importlib\n"
        "sys.modules['torch'] = sys.modules['torchdata'] = None\n"  # importing them now fails
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


SKIPPING = """
import pytest

def test_tool():
    pytest.skip("no unzip here")

def test_gpu():
    pytest.skip("needs a GPU")

@pytest.mark.xfail(strict=False)
def test_known():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "summary"),
    [
        ("true", "1 failed, 1 skipped, 1 xfailed, 2 errors"),
        ("", "4 skipped, 1 xfailed"),
    ],
)
def test_in_ci_a_skip_for_a_missing_tool_is_a_failure(ci, summary, tmp_path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(SKIPPING)
    (tmp_path / "test_module.py").write_text("import pytest; pytest.importorskip('no_such')\n")
    (tmp_path / "test_mark.py").write_text(
        "import pytest\n@pytest.mark.skipif(True, reason='no git here')\ndef test(): pass\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    environment = {**os.environ, "CI": ci}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith(summary)
    assert ("skipped in CI, where nothing may be missing" in done.stdout) == bool(ci)
