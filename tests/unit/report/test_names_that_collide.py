"""Keys may hold dots and be numbers: no tensor may be lost to another of the same dotted name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast import looking
from holdfast.cli.app import cli
from holdfast.errors import MissingPartError, UsageError
from holdfast.report.leaves import leaves
from holdfast.spec.index import TensorRef
from holdfast.spec.tree import bracketed, distinct, dotted, walk

KEYS = st.sampled_from(["a", "b", "a.b", "", "1", 1, 0, True, (1, 2), "['a']", "['a']['b']"])
TREES = st.recursive(
    st.just(None),
    lambda below: (
        st.dictionaries(KEYS, below, min_size=1, max_size=4) | st.lists(below, max_size=2)
    ),
    max_leaves=12,
)


def numbered(tree, counter=None):
    """The same tree with a tensor of its own number at every leaf."""
    counter = iter(range(1000)) if counter is None else counter
    if isinstance(tree, dict):
        return {key: numbered(value, counter) for key, value in tree.items()}
    if isinstance(tree, list):
        return [numbered(value, counter) for value in tree]
    return torch.tensor([float(next(counter))])


def saved(tmp_path: Path, obj) -> Path:
    path = tmp_path / "file.pt"
    torch.save(obj, path)
    return path


@given(TREES)
def test_every_tensor_of_any_tree_has_a_name_of_its_own_and_is_found_by_it(tree) -> None:
    tree = numbered(tree)
    wanted = [leaf.item() for _, leaf in walk(tree) if isinstance(leaf, torch.Tensor)]
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    buffer.seek(0)
    with looking.Checkpoint(Path("x"), *_read(buffer)) as checkpoint:
        names = checkpoint.names()
        assert len(set(names)) == len(wanted)
        assert [checkpoint.array(name).item() for name in names] == wanted
        shown = checkpoint.summary().tensors
        assert [facts.name for facts in shown] == names
        for name in names:
            assert name in [facts.name for facts in checkpoint.summary(name=name).tensors]


def _read(buffer):
    from holdfast.formats import read_index
    from holdfast.io.source import open_source

    source = open_source(buffer)
    return read_index(source), source


@given(st.lists(st.lists(KEYS, max_size=3).map(tuple), unique_by=lambda p: repr(p), max_size=8))
def test_names_are_dotted_unless_another_path_has_the_same(paths) -> None:
    names = distinct([dotted(path) for path in paths], lambda position: paths[position])
    assert len(set(names)) == len(paths)
    plain = [dotted(path) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if plain.count(dotted(path)) > 1:
            assert name.startswith(bracketed(path))


CASES = [
    ({"encoder": {"w": 1}, "encoder.w": 2}, ["['encoder']['w']", "['encoder.w']"], "encoder.w"),
    ({"1": 1, 1: 2}, ["['1']", "[1]"], "1"),
    ({"m": {"x.y": 1, "x": {"y": 2}}}, ["['m']['x.y']", "['m']['x']['y']"], "m.x.y"),
    ({"": 1, "a": 2}, ["['']", "a"], None),
]


def filled(tree):
    if isinstance(tree, dict):
        return {key: filled(value) for key, value in tree.items()}
    return torch.full((tree,), float(tree))


@pytest.mark.parametrize(("tree", "names", "shared"), CASES)
def test_all_of_those_with_one_name_are_in_brackets(tree, names, shared, tmp_path) -> None:
    path = saved(tmp_path, filled(tree))
    with holdfast.open(path) as checkpoint:
        assert checkpoint.names() == names
        for number, name in enumerate(names, 1):
            assert np.array_equal(checkpoint.array(name), np.full(number, float(number)))
        if shared is not None:
            with pytest.raises(MissingPartError) as caught:
                checkpoint.array(shared)
            assert f"several entries of this checkpoint are called {shared!r}" in str(caught.value)
            assert ", ".join(names) in str(caught.value)
    page = CliRunner().invoke(cli, ["show", str(path)])
    assert page.exit_code == 0
    assert "the whole file" not in page.stdout
    for facts in json.loads(CliRunner().invoke(cli, ["show", str(path), "--json"]).stdout)[
        "tensors"
    ]:
        one = CliRunner().invoke(cli, ["show", str(path), facts["name"]])
        assert "tensor([" in one.stdout, one.output


def test_show_of_a_name_that_several_bear_lists_them(tmp_path) -> None:
    path = saved(tmp_path, filled(CASES[0][0]))
    page = CliRunner().invoke(cli, ["show", str(path), "encoder.w"]).stdout
    assert "['encoder']['w']" in page
    assert "['encoder.w']" in page
    assert "['encoder']['w']" in CliRunner().invoke(cli, ["show", str(path), "encoder"]).stdout


def test_damage_names_the_tensor_that_it_is_in(tmp_path) -> None:
    path = saved(tmp_path, {"e": {"w": torch.zeros(3)}, "e.w": torch.ones(3)})
    data = bytearray(path.read_bytes())
    data[data.index(np.ones(3, np.float32).tobytes())] ^= 1
    path.write_bytes(data)
    assert [each.tensors for each in holdfast.verify(path).damages] == [("['e.w']",)]


@pytest.mark.parametrize(("tree", "names", "shared"), CASES[:3])
@pytest.mark.parametrize("options", [{}, {"plain": True}])
def test_convert_refuses_to_lose_one_and_takes_new_names(
    tree, names, shared, options, tmp_path
) -> None:
    path = saved(tmp_path, filled(tree))
    target = tmp_path / ("to.pt" if options else "to.safetensors")
    below = [name.removeprefix("['m']") for name in names]
    with pytest.raises(UsageError) as caught:
        holdfast.convert(path, target, **options)
    assert "several tensors have one name" in str(caught.value)
    assert ", ".join(below) in str(caught.value)
    assert not target.exists()
    rules = {below[0]: "first", below[1]: "second"}
    holdfast.convert(path, target, rename=rules, **options)
    with holdfast.open(target) as checkpoint:
        assert [checkpoint.array(name).size for name in ("first", "second")] == [1, 2]


def test_convert_to_torch_keeps_the_tree_and_so_all_of_it(tmp_path) -> None:
    path = saved(tmp_path, filled(CASES[0][0]))
    holdfast.convert(path, tmp_path / "to.pt")
    found = torch.load(tmp_path / "to.pt")
    assert (len(found["encoder"]["w"]), len(found["encoder.w"])) == (1, 2)


def test_a_part_that_several_bear_is_asked_for_in_brackets(tmp_path) -> None:
    tree = {"a": {"b": {"w": torch.zeros(1)}}, "a.b": {"w": torch.zeros(2)}}
    path, target = saved(tmp_path, tree), tmp_path / "to.safetensors"
    with pytest.raises(MissingPartError) as caught:
        holdfast.convert(path, target, part="a.b")
    assert "['a']['b'], ['a.b']" in str(caught.value)
    for part, size in (("['a']['b']", 1), ("['a.b']", 2)):
        holdfast.convert(path, target, part=part)
        with holdfast.open(target) as checkpoint:
            assert checkpoint.array("w").size == size


def test_parts_that_look_the_same_are_two(tmp_path) -> None:
    path = saved(tmp_path, {1: {"w": torch.zeros(1)}, "1": {"v": torch.zeros(2)}})
    with holdfast.open(path) as checkpoint:
        assert [part.name for part in checkpoint.summary().parts] == ["[1]", "['1']"]
        assert [each.name for each in checkpoint.summary(name="[1]").tensors] == ["1.w"]
    with pytest.raises(UsageError, match=r"found \[1\], \['1'\]"):
        holdfast.convert(path, tmp_path / "to.safetensors")
    report = holdfast.convert(path, tmp_path / "to.safetensors", part="['1']")
    assert [item.name for item in report.items] == ["v"]


def test_keys_that_look_alike_even_in_brackets_are_numbered() -> None:
    class Key:
        def __repr__(self) -> str:
            return "key"

    tree = {Key(): 1, Key(): 2, "[key]": 3, "[key]#2": 4}
    names = [leaf.name for leaf in leaves(tree).found]
    assert len(set(names)) == 4
    assert names[0] == "[key]"


def test_a_tensor_at_the_root_has_the_empty_name_and_no_key_has_it(tmp_path) -> None:
    with holdfast.open(saved(tmp_path, torch.zeros(2))) as checkpoint:
        assert checkpoint.names() == [""]
        assert isinstance(checkpoint.tree, TensorRef)
