"""What holds for every conversion, whatever the format: rules, letters, reports, all or nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import samples
import torch
from safetensors.torch import load_file

import holdfast
from holdfast.errors import DamagedError, UsageError


def test_it_says_where_it_comes_from(tmp_path):
    model = torch.nn.Linear(2, 2)
    holdfast.save_state(tmp_path / "a.pt", model=model, metrics={"loss": 0.5})
    for name in ("b.safetensors", "b.pt"):
        holdfast.convert(tmp_path / "a.pt", tmp_path / name, part="model")
        record = holdfast.open(tmp_path / name).record
        assert record.parent == holdfast.open(tmp_path / "a.pt").record.id
        assert record.metrics == {"loss": 0.5}
        assert record.provenance == {"converted_from": "a.pt", "format_from": "torch_zip"}


def test_a_rule_that_takes_a_name_away_is_refused_and_names_the_file(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    for rules, words in (({"w": ""}, "a tensor would have no name"), ({"x": "y"}, "no name fits")):
        with pytest.raises(UsageError) as caught:
            holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", rename=rules)
        assert words in str(caught.value)
        assert str(tmp_path / "a.pt") in str(caught.value)


def test_what_is_known_of_the_source_is_said(tmp_path):
    frozen = torch.jit.freeze(torch.jit.script(torch.nn.Linear(2, 2).eval()))
    torch.jit.save(frozen, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert any("constants of its code" in note for note in report.notes)


def test_names_are_changed_by_rules(tmp_path):
    torch.save({"module.a.w": torch.ones(1), "module.b.w": torch.zeros(1)}, tmp_path / "a.pt")
    report = holdfast.convert(
        tmp_path / "a.pt", tmp_path / "b.safetensors", rename={"module.*.w": "*.weight"}
    )
    assert load_file(tmp_path / "b.safetensors").keys() == {"a.weight", "b.weight"}
    assert [(i.old_name, i.name) for i in report.items] == [
        ("module.a.w", "a.weight"),
        ("module.b.w", "b.weight"),
    ]


@pytest.mark.parametrize(
    ("target", "options", "what"),
    [
        ("x.onnx", {}, "the suffix says in which format to write, and this one says none"),
        ("x", {}, "the suffix says in which format to write, and this one says none"),
        ("x.safetensors", {"shard_size": 5}, "shards are written into a folder of their own"),
        ("x.safetensors", {"plain": True}, "plain= is for .pt files"),
        ("a.pt", {}, "the source is never changed, and the target is the source or a file of it"),
    ],
)
def test_options_that_do_not_go_together(target, options, what, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / target, **options)
    assert caught.value.what == what


@pytest.mark.parametrize("target", ["b.pt", "b.safetensors", "shards"])
def test_a_damaged_source_writes_nothing(target, tmp_path):
    torch.save({"a": torch.randn(5000), "b": torch.randn(5000)}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[len(data) - 9000] ^= 8
    (tmp_path / "a.pt").write_bytes(data)
    (tmp_path / "b.pt").write_bytes(b"what was there")
    options = {"shard_size": "1MB"} if target == "shards" else {}
    with pytest.raises(DamagedError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / target, **options)
    assert caught.value.tensor == "b"
    assert (tmp_path / "b.pt").read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_a_dry_run_writes_nothing_and_tells_the_same(training, tmp_path):
    target = tmp_path / "x.safetensors"
    told = holdfast.convert(training.path, target, dry_run=True).to_json()
    assert not target.exists()
    done = holdfast.convert(training.path, target).to_json()
    assert told.pop("is_dry_run")
    assert not done.pop("is_dry_run")
    assert told == done


_MEMORY = """
import sys
import holdfast
holdfast.convert(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
with open("/proc/self/status") as status:  # getrusage would count the parent's memory, too
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("b.safetensors", {}),
        ("b.pt", {"dtype": "bf16"}),
    ],
)
def test_memory_does_not_grow_with_the_file(target, options, tmp_path):
    """A tensor of 400 MiB and its transpose in less than 256 MiB, without torch."""
    x = torch.zeros(10240, 10240)
    torch.save({"a": x, "b": x.t()}, tmp_path / "a.pt")
    command = [sys.executable, "-c", _MEMORY, str(tmp_path / "a.pt"), str(tmp_path / target)]
    done = subprocess.run([*command, repr(options)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 256


def test_small_elements_take_no_more_memory_on_their_way_to_another_type(tmp_path):
    torch.save({"a": torch.zeros(10240, 10240).to(torch.float8_e5m2).t()}, tmp_path / "a.pt")
    files = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    command = [sys.executable, "-c", _MEMORY, *files, repr({"dtype": "float8_e8m0fnu"})]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < 256


@pytest.mark.filterwarnings("ignore")  # what the writers say of their formats
@pytest.mark.parametrize("name", ["sharded", "sharded_bin", "model_folder", "dcp"])
def test_no_file_of_the_source_is_ever_written(name, tmp_path):
    path = samples.write(name, tmp_path).path
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    targets = [*before, path / "new.pt"]
    suffixes = {".pt", ".safetensors", ".bin"}
    for target in [each for each in targets if each.suffix in suffixes]:
        with pytest.raises(UsageError, match="the source is never changed"):
            holdfast.convert(path, target, part="model" if "model" in name else None)
    listing = path / "model.safetensors.index.json"
    if listing.exists():
        shard = next(path.glob("*.safetensors"))
        with pytest.raises(UsageError, match="the source is never changed"):
            holdfast.convert(listing, shard)
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_letters_name_the_file(tmp_path):
    torch.save({"c": torch.ones(2, dtype=torch.complex128)}, tmp_path / "a.pt")
    with pytest.raises(UsageError) as caught:
        holdfast.convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert str(tmp_path / "a.pt") in str(caught.value)
    assert "tensor 'c'" in str(caught.value)


def test_the_text_of_a_report(training, tmp_path):
    target = tmp_path / "a.safetensors"
    report = holdfast.convert(training.path, target, dtype="fp8")
    nbytes = f"{target.stat().st_size / 1024:.1f} KiB"
    assert report.to_text().splitlines() == [
        f"{target}: {nbytes}",
        f"6 tensors of model written under 7 names, {nbytes}",
        "Left out: optimizer, epoch",
        "Tied: out.weight is embedding.weight, stored once",
    ]
    assert "TensorRef" not in repr(report)
    torch.save({f"w{n}": torch.full((n + 1,), 1e30) for n in range(12)}, tmp_path / "b.pt")
    text = holdfast.convert(tmp_path / "b.pt", target, dtype="fp8", dry_run=False).to_text()
    assert "Did not fit: 1 number of w0, now infinite, NaN or the type's largest" in text
    assert "  and 2 more tensors with such numbers (to_json and --json have all)" in text
