"""The door: a small set of names, nothing beside them, and no torch before it is needed."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import holdfast


def test_all_is_sorted_and_each_name_is_there():
    assert holdfast.__all__ == sorted(set(holdfast.__all__))
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None
        assert name in dir(holdfast)
    assert dir(holdfast) == sorted([*holdfast.__all__, "__version__"])


def test_all_is_complete():
    """What a type checker sees, what is loaded lazily, and what is listed are the same."""
    tree = ast.parse(Path(holdfast.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name for node in block.body for alias in node.names}
    assert seen == set(holdfast._HOMES) == set(holdfast.__all__)


def test_nothing_else_is_importable_by_accident():
    for module in pkgutil.iter_modules(holdfast.__path__):
        if module.name != "__main__":
            __import__(f"holdfast.{module.name}")
    submodules = {module.name for module in pkgutil.iter_modules(holdfast.__path__)}
    found = {name for name in vars(holdfast) if not name.startswith("_")}
    assert found <= set(holdfast.__all__) | submodules
    for name in found - set(holdfast.__all__):
        assert isinstance(vars(holdfast)[name], types.ModuleType)


def test_no_submodule_bears_the_name_of_something_else_at_the_door():
    """Importing it would put the module in the place of the function."""
    submodules = {module.name for module in pkgutil.iter_modules(holdfast.__path__)}
    assert submodules & set(holdfast.__all__) == {"errors"}
    assert holdfast._HOMES["errors"] == ("holdfast.errors", None)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match=r"^module 'holdfast' has no attribute 'Rum'$"):
        holdfast.Rum  # noqa: B018


def test_the_names_are_where_the_door_says(tmp_path):
    import holdfast.run
    import holdfast.training

    assert holdfast.Run is holdfast.run.Run
    assert isinstance(holdfast.keep, types.ModuleType)
    assert holdfast.keep.__all__ == ["Keep", "best", "every", "latest"]
    assert holdfast.save is holdfast.training.save


_LOOK = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")
sys.meta_path.insert(0, NoTorch())
import holdfast
path = sys.argv[1]
print(holdfast.open(path).record.step, holdfast.verify(path).ok, holdfast.every(steps=2))
print(holdfast.keep.latest(2) | holdfast.keep.best("loss"))
from holdfast.cli import main
for command in (["list"], ["show"], ["verify"], ["scan"], ["path", "latest"]):
    arguments = [command[0], path, *command[1:]]
    try:
        main(arguments)
    except SystemExit as left:
        assert not left.code, left.code
for name in (
    *("Run", "save", "load", "save_state", "load_state", "load_model"), *("snapshot", "describe")
):
    try:
        getattr(holdfast, name)
    except ImportError as error:
        print(error)
assert "torch" not in sys.modules
"""


def test_importing_and_looking_never_import_torch(tmp_path):
    import torch

    with holdfast.Run(tmp_path, model=torch.nn.Linear(2, 2)) as run:
        run.save(4)
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["4 True every(steps=2)", "latest(2) | best('loss')"]
    assert lines[-16:] == [
        line
        for name in (
            *("Run", "save", "load", "save_state", "load_state", "load_model"),
            *("snapshot", "describe"),
        )
        for line in (
            f"holdfast.{name} needs torch, which is not installed",
            '  pip install "holdfast[torch]"',
        )
    ]
