from __future__ import annotations

import io

import torch

from holdfast.formats import read_index
from holdfast.io.source import open_source
from holdfast.report.paths import first_few, tensors_by_storage


def test_tensors_are_named_by_the_storage_they_lie_in():
    base = torch.arange(6.0)
    net = torch.nn.Linear(2, 1)
    buffer = io.BytesIO()
    tree = {
        "a": {"w": base, "v": base[1:]},
        "list": [torch.ones(1), (torch.eye(2).to_sparse(),)],
        "net": net,
        "storage": torch.zeros(2).storage(),
        "meta": torch.empty(3, device="meta"),
    }
    torch.save(tree, buffer)
    buffer.seek(0)
    with open_source(buffer) as source:
        assert tensors_by_storage(read_index(source).tree) == {
            "0": ("a.w", "a.v"),
            "1": ("list.0",),
            "2": ("list.1.0",),
            "3": ("list.1.0",),
            "4": ("net.weight",),
            "5": ("net.bias",),
            "6": ("storage",),
        }


def test_a_tree_of_endless_leaves_is_named_as_far_as_it_goes():
    leaf: list = [1, {"x": 2}]
    for _ in range(60):
        leaf = [leaf, leaf]
    assert tensors_by_storage(leaf) == {}


def test_names_for_a_message_are_few():
    assert first_few(()) == ""
    assert first_few(("a", "b", "c")) == "a, b, c"
    assert first_few(("a", "b", "c", "d")) == "a, b, c and 1 more"
