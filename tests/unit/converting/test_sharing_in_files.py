"""What is one tensor stays one in the new file, and views stay views: torch is the oracle."""

from __future__ import annotations

import pytest
import samples
import torch
from comparing import same
from safetensors import safe_open
from safetensors.torch import load_model

import holdfast


@pytest.mark.parametrize("options", [{}, {"shard_size": 200}])
def test_tied_weights_come_back_under_all_their_names(options, training, tmp_path):
    middle = tmp_path / ("shards" if options else "middle.safetensors")
    holdfast.convert(training.path, middle, part="model", **options)
    assert set(holdfast.open(middle).names()) == set(training.weights)
    assert holdfast.verify(middle).ok
    report = holdfast.convert(middle, tmp_path / "back.pt")
    assert report.notes == ()
    back = torch.load(tmp_path / "back.pt")
    assert back["out.weight"].data_ptr() == back["embedding.weight"].data_ptr()
    samples.Net().load_state_dict(back)
    holdfast.convert(middle, tmp_path / "again.safetensors")
    load_model(samples.Net(), tmp_path / "again.safetensors")


def test_tied_weights_follow_the_rules_of_safetensors(training, tmp_path):
    """Stored once, under the first name, the other one in the metadata: load_model takes that."""
    report = holdfast.convert(training.path, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata()["out.weight"] == "embedding.weight"
        assert file.metadata()["format"] == "pt"
    fresh = samples.Net()
    assert load_model(fresh, tmp_path / "m.safetensors") == (set(), [])
    assert same(fresh.state_dict(), training.weights)
    assert [item.name for item in report.items if item.tied_to] == ["out.weight"]


def test_views_share_their_storage_in_the_new_file_as_torch_saved_it(tmp_path):
    base, images = torch.arange(12.0), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tree = {
        "base": base,
        "view": base[2:8].view(2, 3),
        "expanded": torch.ones(1, 1).expand(1000, 1000),
        "images": images,
        "slice": torch.zeros(1_000_000)[10:14],
        "tied slice": None,
    }
    tree["tied slice"] = tree["slice"][:]
    torch.save(tree, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "w.pt", rename={"base": "base"})
    assert [item.name for item in report.items] == list(tree)
    for made in (torch.load(tmp_path / "b.pt"), torch.load(tmp_path / "w.pt")):
        assert all(torch.equal(made[name], tree[name]) for name in tree)
        assert made["images"].stride() == images.stride()
        assert made["slice"].data_ptr() == made["tied slice"].data_ptr()
        made["base"][2] = 100
        assert made["view"][0, 0] == 100
    assert (tmp_path / "b.pt").stat().st_size < 6000
    assert (tmp_path / "w.pt").stat().st_size < 6000


def test_one_tensor_twice_is_one_tensor_and_another_in_its_storage_another(tmp_path):
    shared = torch.zeros(3)
    torch.save({"a": shared, "b": shared, "c": shared.detach()}, tmp_path / "a.pt")
    holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    made = torch.load(tmp_path / "b.pt")
    assert made["a"] is made["b"]
    assert made["a"] is not made["c"]
    assert made["a"].data_ptr() == made["c"].data_ptr()
