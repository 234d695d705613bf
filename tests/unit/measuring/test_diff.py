"""What is different, found in real files; NumPy over whole tensors is the oracle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from damaging import flip_first_byte
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import holdfast
from holdfast.errors import MissingPartError
from holdfast.report.diff import Change, DiffReport, Side

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]


def between(a: Any, b: Any, folder: Path, **options: Any) -> DiffReport:
    torch.save(a, folder / "a.pt")
    torch.save(b, folder / "b.pt")
    return holdfast.diff(folder / "a.pt", folder / "b.pt", **options)


def one(a: Any, b: Any, folder: Path) -> Change:
    (found,) = between({"x": a}, {"x": b}, folder).changes
    return found


NUMBERS = hnp.arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32))


@given(NUMBERS, NUMBERS)
@settings(max_examples=30)
def test_the_numbers_are_those_of_numpy(tmp_path_factory: Any, a: Any, b: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    report = between({"x": torch.from_numpy(a)}, {"x": torch.from_numpy(b)}, folder)
    if a.tobytes() == b.tobytes():
        assert report.is_equal
        return
    (change,) = report.changes
    assert change.sums is not None
    wide, other = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    gap = wide - other
    sums = change.sums
    assert sums.changed == np.count_nonzero(a.view(np.uint32) != b.view(np.uint32))
    assert sums.largest == np.abs(gap).max()
    norm = np.linalg.norm(wide)
    if norm:
        assert sums.relative == pytest.approx(np.linalg.norm(gap) / norm, rel=1e-9)
    elif gap.any():
        assert sums.relative == math.inf
    if norm and other.any():
        cosine = float(wide @ other / norm / np.linalg.norm(other))
        assert sums.cosine == pytest.approx(cosine, abs=1e-9)
    else:
        assert sums.cosine is None


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float16, torch.complex64, torch.int32]
)
def test_other_types(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(1)
    a = (torch.randn(70, 300) * 20).to(dtype)
    b = (torch.randn(70, 300) * 20).to(dtype)
    sums = one(a, b, tmp_path).sums
    assert sums is not None
    kind = torch.complex128 if dtype.is_complex else torch.float64
    wide, other = a.to(kind).flatten(), b.to(kind).flatten()
    assert sums.relative == pytest.approx(float((wide - other).norm() / wide.norm()), rel=1e-9)
    assert sums.largest == pytest.approx(float((wide - other).abs().max()))
    assert sums.numel == 21_000


def test_the_same_in_another_layout_is_the_same(tmp_path: Path) -> None:
    x = torch.randn(40, 3000)
    assert between({"x": x}, {"x": x.t().contiguous().t()}, tmp_path).is_equal
    assert between({"x": x[:, ::2]}, {"x": x[:, ::2].clone()}, tmp_path).is_equal


def test_bits_count(tmp_path: Path) -> None:
    nan = torch.tensor([math.nan, 1.0])
    assert between({"x": nan}, {"x": nan.clone()}, tmp_path).is_equal
    sums = one(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), tmp_path).sums
    assert sums is not None
    assert (sums.changed, sums.relative, sums.share) == (1, 0.0, 0.5)


def test_what_is_not_finite_is_in_no_sum(tmp_path: Path) -> None:
    a, b = torch.tensor([1.0, 2.0, math.inf, 3.0]), torch.tensor([1.0, math.nan, math.inf, 4.0])
    sums = one(a, b, tmp_path).sums
    assert sums is not None
    assert (sums.changed, sums.strange, sums.largest) == (2, 1, 1.0)


def test_kinds_of_change(tmp_path: Path) -> None:
    x = torch.randn(4, 5)
    assert one(x, x.double(), tmp_path).kinds == ("cast",)
    assert one(x, x.half(), tmp_path).kinds == ("cast", "changed")
    assert one(x, x + 1, tmp_path).kinds == ("changed",)
    reshaped = one(x, x.reshape(5, 4), tmp_path)
    assert (reshaped.kinds, reshaped.shapes) == (("reshaped",), ((4, 5), (5, 4)))
    assert reshaped.sums is None


def test_added_and_removed(tmp_path: Path) -> None:
    report = between({"x": torch.ones(2), "y": torch.ones(3)}, {"x": torch.ones(2)}, tmp_path)
    assert (report.removed, report.added, report.same) == (
        (Side("y", "float32", (3,), 12),),
        (),
        1,
    )
    assert not report.is_equal


def test_renamed_by_content(tmp_path: Path) -> None:
    w, v = torch.randn(3, 3), torch.randn(3, 3)
    report = between({"old.w": w, "old.v": v}, {"new.v": v, "new.w": w}, tmp_path)
    assert [(c.old_name, c.name, c.kinds) for c in report.changes] == [
        ("old.w", "new.w", ("renamed",)),
        ("old.v", "new.v", ("renamed",)),
    ]
    assert (report.added, report.removed) == ((), ())


def test_of_several_with_one_content_the_names_decide(tmp_path: Path) -> None:
    zeros = {f"old.{name}": torch.zeros(4) for name in ("bias", "shift")}
    other = {f"new.{name}": torch.zeros(4) for name in ("shift", "bias")}
    pairs = {c.old_name: c.name for c in between(zeros, other, tmp_path).changes}
    assert pairs == {"old.bias": "new.bias", "old.shift": "new.shift"}


@pytest.mark.parametrize("wrapped", ["module.fc.w", "_orig_mod.fc.w", "fc._fsdp_wrapped_module.w"])
def test_names_of_wrappers_are_seen_through(wrapped: str, tmp_path: Path) -> None:
    """Though the numbers changed, too: by content nothing would be found."""
    (change,) = between({"fc.w": torch.ones(3)}, {wrapped: torch.ones(3) * 2}, tmp_path).changes
    assert (change.old_name, change.name) == ("fc.w", wrapped)
    assert change.kinds == ("renamed", "changed")
    assert change.sums is not None
    assert change.sums.relative == 1.0


def test_sparse_tensors(tmp_path: Path) -> None:
    a = torch.tensor([[0.0, 2.0], [0.0, -3.0]]).to_sparse()
    assert between({"x": a}, {"x": a.clone()}, tmp_path).is_equal
    sums = one(a, a * 2, tmp_path).sums
    assert sums is not None
    assert (sums.numel, sums.relative) == (2, 1.0)
    moved = torch.tensor([[2.0, 0.0], [0.0, -3.0]]).to_sparse()
    assert one(a, moved, tmp_path).why == "its elements lie in other places"
    more = torch.tensor([[1.0, 2.0], [0.0, -3.0]]).to_sparse()
    sums = one(a, more, tmp_path).sums
    assert sums is not None
    assert (sums.numel, sums.changed) == (4, 1)


def test_what_has_no_numbers(tmp_path: Path) -> None:
    meta = torch.empty(3, device="meta")
    assert between({"x": meta}, {"x": torch.empty(3, device="meta")}, tmp_path).is_equal
    assert one(meta, torch.ones(3), tmp_path).why == "a meta tensor, which has no values"
    texts, other = np.array(["a", "b"]), np.array(["a", "c"])
    assert between({"x": texts}, {"x": texts.copy()}, tmp_path).is_equal
    assert one(texts, other, tmp_path).why == "an array of <U1"
    huge = torch.ones(1, 3).expand(10**9, 3)
    assert between({"x": huge}, {"x": huge}, tmp_path).is_equal
    assert one(huge, (huge[:1] * 2).expand(10**9, 3), tmp_path).kinds == ("changed",)
    overlapping = torch.zeros(1000).as_strided((500, 500), (1, 1))
    assert between({"x": overlapping}, {"x": overlapping}, tmp_path).is_equal
    ones = torch.ones(1000).as_strided((500, 500), (1, 1))
    why = one(overlapping, ones, tmp_path).why
    assert why == "it overlaps itself: 250,000 elements in 1,000"


def test_what_is_packed_is_compared_where_it_lies(tmp_path: Path) -> None:
    """Two views of one storage: what is beside them is the same."""
    whole = torch.arange(16, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    a, b = {"x": whole[:8], "z": whole}, {"x": whole[8:], "z": whole}
    (change,) = between(a, b, tmp_path).changes
    assert (change.name, change.why) == ("x", "float4_e2m1fn_x2 is packed bits")
    assert between(a, {"x": whole[:8].clone(), "z": whole}, tmp_path).is_equal


def test_the_places_of_a_sparse_tensor_are_numbers(tmp_path: Path) -> None:
    places = torch.tensor([[0, 1, 2, 3]])

    def sparse(indices: Any) -> Any:
        return torch.sparse_coo_tensor(indices, torch.ones(indices.shape[1]), (5,))

    assert not between(
        {"x": sparse(places[:, :2])}, {"x": sparse(places[:, 2:])}, tmp_path
    ).is_equal
    other = torch.sparse_coo_tensor(places.t().contiguous().t()[:, :2], torch.ones(2), (5,))
    assert between({"x": sparse(places[:, :2])}, {"x": other}, tmp_path).is_equal


def test_one_sparse_tensor_that_is_too_large_hides_no_other(tmp_path: Path) -> None:
    def sparse(count: int) -> Any:
        places = torch.arange(count)
        return torch.sparse_coo_tensor(
            torch.stack([places, places]), torch.ones(count), (10**6,) * 2
        )

    a, b = {"x": sparse(3), "w": torch.ones(2)}, {"x": sparse(4), "w": torch.ones(2) * 2}
    odd, weight = between(a, b, tmp_path).changes
    assert odd.why == "this sparse tensor is too large as a dense array"
    assert weight.sums is not None
    assert between({"x": sparse(3)}, {"y": sparse(3)}, tmp_path).added


def test_sparse_values_that_are_expanded(tmp_path: Path) -> None:
    def sparse(count: int) -> Any:
        return torch.sparse_coo_tensor(
            torch.arange(count)[None], torch.ones(1).expand(count), (99,)
        )

    assert one(sparse(50), sparse(49), tmp_path).why == "it overlaps itself: 50 elements in 1"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(2, dtype=[("a", "<f4")]), np.ones(2, dtype=[("a", "<f4")])),
        (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
        (np.array([1], "M8[s]"), np.array([1], "M8[D]")),
        (np.array([["a", "b"], ["c", "d"]]), np.asfortranarray([["a", "c"], ["b", "d"]])),
        (torch.zeros(4).untyped_storage(), torch.ones(4).untyped_storage()),
        (1 << 5000, (1 << 5000) + 1),
        (0.0, -0.0),
        ([1.0], [1]),
    ],
)
def test_what_differs_is_never_equal(a: Any, b: Any, tmp_path: Path) -> None:
    torch.save({"x": a, "y": 1}, tmp_path / "a.pt")
    torch.save({"x": b, "y": 1}, tmp_path / "b.pt")
    assert not holdfast.diff(tmp_path / "a.pt", tmp_path / "b.pt").is_equal


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([["a", "b"], ["c", "d"]]), np.asfortranarray([["a", "b"], ["c", "d"]])),
        (torch.ones(4).untyped_storage(), torch.ones(4).untyped_storage()),
        (1 << 5000, 1 << 5000),
        (math.nan, math.nan),
        (torch.ones(1).expand(100), torch.ones(100)),
        (torch.randn(2, 3).t()[(None,) * 70], None),
    ],
)
def test_what_is_the_same_is_equal(a: Any, b: Any, tmp_path: Path) -> None:
    assert between({"x": a}, {"x": a if b is None else b}, tmp_path).is_equal


def test_what_could_not_be_listed_is_not_equal() -> None:
    assert not DiffReport("a", "b", same=3, is_complete=False).is_equal


def test_large_and_small_doubles(tmp_path: Path) -> None:
    def sums(a: float, b: float) -> Any:
        values = [torch.full((10,), each, dtype=torch.float64) for each in (a, b)]
        return one(*values, tmp_path).sums

    assert (sums(1e200, -1e200).relative, sums(1e200, -1e200).cosine) == (2.0, -1.0)
    assert sums(1e-200, 2e-200).relative == pytest.approx(1.0)


def test_large_integers_are_exact(tmp_path: Path) -> None:
    a, b = torch.tensor([2**53 + 1, 2**62 + 1]), torch.tensor([2**53, 2**62])
    sums = one(a, b, tmp_path).sums
    assert sums is not None
    assert (sums.largest, sums.changed) == (1.0, 2)
    assert one(a, b.to(torch.uint64), tmp_path).kinds == ("cast", "changed")


def test_thousands_with_one_content_are_renamed_at_once(tmp_path: Path) -> None:
    """It took a minute when each was looked for among all others."""
    count = 8000
    a = {f"k.{n}.bias": torch.zeros(4) for n in range(count)}
    b = {f"j.{n}.bias": torch.zeros(4) for n in range(count)}
    changes = between(a, b, tmp_path).changes
    assert {(each.old_name, each.name) for each in changes} == {
        (f"k.{n}.bias", f"j.{n}.bias") for n in range(count)
    }


def test_a_few_bytes_that_describe_a_trillion_are_done_at_once(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(10**6, 10**6)
    (change,) = between({"x": huge}, {"y": huge}, tmp_path).changes
    assert (change.old_name, change.name) == ("x", "y")


def test_keys_with_dots_below_a_part(tmp_path: Path) -> None:
    weights = {"a.b": torch.ones(2), "a": {"b": torch.ones(3)}}
    report = between({"model": weights}, weights, tmp_path, part="model")
    assert (report.is_equal, report.same) == (True, 2)


def test_progress_is_told_of_every_pair(tmp_path: Path) -> None:
    told: list[int] = []
    between(
        {"x": torch.ones(2), "y": torch.ones(3)},
        {"x": torch.ones(3), "y": torch.ones(3)},
        tmp_path,
        on_progress=told.append,
    )
    assert sorted(told) == [20, 24]


def test_values_and_objects(tmp_path: Path) -> None:
    a = {"lr": 0.1, "same": [1, 2], "gone": None, "long": "x" * 300 + "a", "kind": 1}
    b = {"lr": 0.2, "same": [1, 2], "new": (1,), "long": "x" * 300 + "b", "kind": True}
    report = between(a, b, tmp_path)
    found = {name: (one, other) for name, one, other in report.values}
    assert found["lr"] == ("0.1", "0.2")
    assert found["gone"] == ("None", None)
    assert found["new"] == (None, "(1,)")
    assert found["kind"] == ("1", "True")
    assert found["long"][0] == found["long"][1], "they differ further on"
    assert (report.same_values, report.is_equal) == (1, False)


def test_layers_are_sorted_by_their_weights(tmp_path: Path) -> None:
    a = {
        "few.weight": torch.ones(4, 4),
        "few.count": torch.tensor(1),
        "much.weight": torch.ones(4, 4),
        "much.bias": torch.ones(4),
        "steps.n": torch.tensor(1),
    }
    b = {**a, "few.weight": torch.ones(4, 4) * 1.01, "few.count": torch.tensor(100)}
    b |= {"much.weight": torch.ones(4, 4) * 2, "steps.n": torch.tensor(2)}
    steps, much, few = between(a, b, tmp_path).layers()
    assert [each.name for each in (steps, much, few)] == ["steps", "much", "few"]
    assert few.sums.relative == pytest.approx(0.01, rel=1e-5), "a counter is no weight"
    assert [change.name for change in few.changes] == ["few.count", "few.weight"]
    assert much.sums.relative == pytest.approx(math.sqrt(16 / 20)), "its bias did not change"
    assert steps.sums.relative == 1.0


def test_a_part_beside_a_file_of_weights(tmp_path: Path) -> None:
    weights = {"fc.w": torch.ones(3)}
    torch.save({"model": weights, "epoch": 3}, tmp_path / "full.pt")
    torch.save(weights, tmp_path / "weights.pt")
    report = holdfast.diff(tmp_path / "full.pt", tmp_path / "weights.pt", part="model")
    assert (report.is_equal, report.same) == (True, 1)
    assert not holdfast.diff(tmp_path / "full.pt", tmp_path / "weights.pt").is_equal
    with pytest.raises(MissingPartError, match="neither checkpoint has a part called 'modle'") as e:
        holdfast.diff(tmp_path / "full.pt", tmp_path / "weights.pt", part="modle")
    assert e.value.found == "model"


def test_the_record_is_told_of_and_does_not_count(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        run.save(1, metrics={"loss": 0.5})
        run.save(2, metrics={"loss": 0.25})
    report = holdfast.diff(tmp_path / "run@1", tmp_path / "run@2")
    assert report.is_equal
    fields = {name: (one, other) for name, one, other in report.record}
    assert fields["metrics.loss"] == ("0.5", "0.25")
    assert fields["step"] == ("1", "2")


def test_across_formats(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"w": torch.randn(3, 4), "b": torch.randn(4).bfloat16()}
    torch.save(weights, tmp_path / "a.pt")
    save_file(weights, tmp_path / "b.safetensors")
    assert holdfast.diff(tmp_path / "a.pt", tmp_path / "b.safetensors").is_equal


def test_folders_of_shards_and_the_latest_of_a_run(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    with holdfast.Run(tmp_path / "run", background=False, model=model) as run:
        run.save(1)
    holdfast.convert(tmp_path / "run", tmp_path / "shards", part="model", shard_size="1MB")
    for path in (tmp_path / "run", f"{tmp_path / 'run'}@latest"):
        report = holdfast.diff(path, tmp_path / "shards", part="model")
        assert (report.is_equal, report.same) == (True, 2)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_folder_of_several_processes_beside_a_file(tmp_path: Path) -> None:
    tree = {"model": {"fc.weight": torch.randn(30, 5), "fc.bias": torch.randn(30).bfloat16()}}
    dcp.save(tree, storage_writer=dcp.FileSystemWriter(tmp_path / "dcp"), no_dist=True)
    torch.save(tree, tmp_path / "a.pt")
    assert holdfast.diff(tmp_path / "dcp", tmp_path / "a.pt").is_equal
    tree["model"]["fc.weight"][7, 3] += 1
    torch.save(tree, tmp_path / "a.pt")
    (change,) = holdfast.diff(tmp_path / "dcp", tmp_path / "a.pt").changes
    assert change.name == "model.fc.weight"
    assert change.sums is not None
    assert (change.sums.changed, change.sums.largest) == (1, pytest.approx(1, rel=1e-5))


def test_what_became_nan_comes_first(tmp_path: Path) -> None:
    a = {"a.w": torch.ones(3), "b.w": torch.ones(3)}
    b = {"a.w": torch.ones(3) * 9, "b.w": torch.full((3,), math.nan)}
    report = between(a, b, tmp_path)
    assert [change.name for change in report.changes] == ["b.w", "a.w"]
    assert [layer.name for layer in report.layers()] == ["b", "a"]


def test_what_is_damaged_is_a_change_and_hides_no_other(tmp_path: Path) -> None:
    between({"x": torch.ones(100)}, {"x": torch.ones(100), "y": torch.ones(5)}, tmp_path)
    torch.save({"x": torch.ones(100), "y": torch.ones(5) * 2}, tmp_path / "a.pt")
    flip_first_byte(tmp_path / "b.pt")
    report = holdfast.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert not report.is_equal
    damaged, other = report.changes
    assert (damaged.name, damaged.sums) == ("x", None)
    assert damaged.why == "unreadable: the bytes of this checkpoint are not those that were saved"
    assert other.sums is not None
    assert (other.name, other.sums.relative) == ("y", 0.5)


def test_damage_in_what_has_no_like_is_no_error(tmp_path: Path) -> None:
    """Its content would tell whether it was renamed."""
    between({"x": torch.ones(100)}, {"z": torch.ones(100)}, tmp_path)
    flip_first_byte(tmp_path / "b.pt")
    report = holdfast.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    assert [side.name for side in (*report.removed, *report.added)] == ["x", "z"]


def test_it_says_what_it_found(tmp_path: Path) -> None:
    report = between({"x": torch.ones(2), "e": 1}, {"x": torch.ones(2) * 2, "e": 2}, tmp_path)
    assert report.in_words() == ("tensors: 1 changed, 0 the same; values: 1 changed, 0 the same")
    assert str(report) == f"{tmp_path / 'a.pt'} -> {tmp_path / 'b.pt'}: {report.in_words()}"
    made = report.to_json()
    assert (made["equal"], made["changes"][0]["sums"]["relative"]) == (False, 1.0)
    assert made["layers"][0]["tensors"] == ["x"]
