"""Statistics of real files; NumPy over the whole tensor is the oracle."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import holdfast
from holdfast.errors import MissingPartError, UsageError
from holdfast.report.stats import Flag, TensorStats

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse:UserWarning"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning"),
]


def of(tensor: Any, folder: Path) -> TensorStats:
    """The statistics of one tensor that torch saved."""
    file = folder / "one.pt"
    torch.save({"x": tensor}, file)
    (found,) = holdfast.stats(file).tensors
    return found


def flags(tensor: Any, folder: Path) -> list[str]:
    return [flag.text for flag in of(tensor, folder).flags]


DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int16, torch.uint8, torch.bool, torch.complex64, torch.complex32),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_numbers_are_those_of_numpy(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    numbers = torch.randn(37, 1001) * 9  # more than several blocks
    tensor = torch.complex(numbers, numbers.flip(0)).to(dtype) if dtype.is_complex else numbers
    tensor = tensor.abs().to(dtype) if dtype is torch.uint8 else tensor.to(dtype)
    found = of(tensor, tmp_path)
    whole = tensor.to(torch.complex128 if dtype.is_complex else torch.float64).numpy()
    whole = np.abs(whole) if dtype.is_complex else whole
    assert (found.minimum, found.maximum) == (whole.min(), whole.max())
    assert found.mean == pytest.approx(whole.mean(), rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(whole.std(), rel=1e-9)
    assert found.norm == pytest.approx(np.linalg.norm(whole), rel=1e-9)
    assert found.zeros == np.count_nonzero(whole == 0)
    assert (found.nans, found.infs, found.counted) == (0, 0, whole.size)
    edges = found.histogram.edges
    assert list(found.histogram.counts) == np.histogram(whole, np.array(edges))[0].tolist()
    assert (found.dtype, found.shape) == (str(dtype).removeprefix("torch."), (37, 1001))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64])
def test_large_integers_are_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    found = of(torch.tensor([3, 2**62 + 1], dtype=dtype), tmp_path)
    assert (found.minimum, found.maximum) == (3, 2**62 + 1)


def test_a_transposed_tensor_has_the_same_numbers(tmp_path: Path) -> None:
    tensor = torch.randn(300, 200)
    one, other = of(tensor, tmp_path), of(tensor.t(), tmp_path)
    assert one.histogram == other.histogram
    assert one.norm == pytest.approx(other.norm)


def test_what_is_not_finite_is_counted_and_left_out(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    found = of(torch.tensor([nan, 1.0, inf, -inf, 3.0, nan, nan]), tmp_path)
    assert (found.nans, found.infs, found.mean, found.minimum) == (3, 2, 2.0, 1.0)
    assert [flag.text for flag in found.flags] == ["3 NaN of 7", "2 infinite of 7"]
    assert not found.is_finite
    nothing = of(torch.tensor([nan, nan]), tmp_path)
    assert (nothing.mean, nothing.norm, nothing.histogram.counts) == (None, None, ())


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(3, 4), "all zero"),
        (torch.full((5,), 0.5), "all 0.5"),
        (torch.tensor(0.0), None),
        (torch.tensor([0, 0, 3]), None),
        (torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]), "2 of 4 rows are zero"),
        (torch.tensor([[1.0], [0.0]]), None),  # rows of one number are no rows
        (torch.tensor([1e-40, 1.0, 2.0]), "33.3% are subnormal"),
        (torch.tensor([2.0**-7] * 9 + [1.0]).to(torch.float8_e4m3fn), None),
        (torch.empty(0, 3), None),
    ],
)
def test_what_looks_wrong_is_flagged(tensor: Any, text: str | None, tmp_path: Path) -> None:
    found = flags(tensor, tmp_path)
    assert found == [] if text is None else found[0].startswith(text)
    assert len(found) <= 1


def test_rows_are_those_of_any_number_of_blocks(tmp_path: Path) -> None:
    tensor = torch.ones(7, 5003)
    tensor[2] = tensor[5] = 0
    tensor[3, :5002] = 0
    assert of(tensor, tmp_path).dead_rows == 2
    wide = torch.ones(5003, 3)
    wide[1::2] = 0
    assert of(wide, tmp_path).dead_rows == 2501


def test_a_norm_that_explodes_is_seen_beside_the_others_of_its_part(tmp_path: Path) -> None:
    model = {f"{n}.weight": torch.randn(8, 8) for n in range(4)}
    model["3.weight"] *= 1e6
    torch.save(
        {"model": model, "optimizer": {"x": torch.full((4, 2), 5e6) + torch.eye(4, 2)}},
        tmp_path / "a.pt",
    )
    report = holdfast.stats(tmp_path / "a.pt")
    (bad,) = report.flagged
    assert bad.name == "model.3.weight"
    (flag,) = bad.flags
    assert flag.kind == "exploding"
    assert "times the median of its part" in flag.text
    assert report.ok, "that is no NaN"


def test_forms_other_than_dense(tmp_path: Path) -> None:
    stored = torch.tensor([[0.0, 2.0], [0.0, -3.0]]).to_sparse()
    found = of(stored, tmp_path)
    assert (found.counted, found.numel, found.minimum, found.dead_rows) == (2, 4, -3.0, 0)
    assert of(torch.ones(1, 3).expand(10**9, 3), tmp_path).counted == 3
    quantized = torch.quantize_per_tensor(torch.tensor([0.0, 0.5]), 0.25, 0, torch.qint8)
    assert of(quantized, tmp_path).maximum == 0.5
    assert of(torch.empty(3, device="meta"), tmp_path).why == "a meta tensor, which has no values"
    assert of(np.arange(3.0), tmp_path).maximum == 2.0
    overlapping = torch.zeros(1000).as_strided((500, 500), (1, 1))
    assert of(overlapping, tmp_path).why == "it overlaps itself: 250,000 elements in 1,000"


def test_a_damaged_tensor_is_flagged_and_the_others_measured(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    torch.save({"x": torch.ones(100), "y": torch.arange(3.0)}, file)
    with holdfast.open(file) as checkpoint:
        extent = checkpoint.index.extents["0"]
    data = bytearray(file.read_bytes())
    data[extent.offset] ^= 1
    file.write_bytes(data)
    report = holdfast.stats(file)
    broken, whole = report.tensors
    assert broken.flags == (Flag("unreadable", broken.flags[0].text),)
    assert "not those that were saved" in broken.flags[0].text
    assert broken.mean is None
    assert whole.mean == 1.0
    assert not report.ok


def test_names_patterns_and_what_is_not_there(tmp_path: Path) -> None:
    torch.save(
        {"model": {"a.w": torch.ones(2), "b": torch.ones(2)}, "x": torch.ones(2)}, tmp_path / "a.pt"
    )

    def names(**options: Any) -> list[str]:
        return [each.name for each in holdfast.stats(tmp_path / "a.pt", **options).tensors]

    assert names(name="model") == ["model.a.w", "model.b"]
    assert names(grep="w$") == ["model.a.w"]
    with pytest.raises(MissingPartError, match="nothing in this checkpoint is called 'modle'"):
        names(name="modle")
    with pytest.raises(UsageError, match="no regular expression"):
        names(grep="(")


def test_it_says_what_is_flagged(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2), "b": torch.arange(3.0)}, tmp_path / "a.pt")
    report = holdfast.stats(tmp_path / "a.pt")
    assert str(report) == f"{tmp_path / 'a.pt'}: 2 tensors, 1 of them flagged\n  a: all zero"
    assert report.to_json()["tensors"][1]["maximum"] == 2.0


def test_infinite_results_are_text_in_json(tmp_path: Path) -> None:
    made = of(torch.full((100,), 1.7e308, dtype=torch.float64), tmp_path).to_json()
    assert made["norm"] == "Infinity"
    assert made["mean"] == pytest.approx(1.7e308)


@pytest.mark.parametrize("size", [1e200, 1e-200, 5e-324])
def test_numbers_whose_squares_no_double_holds(size: float, tmp_path: Path) -> None:
    found = of(torch.tensor([size, -size, 0.0], dtype=torch.float64), tmp_path)
    assert found.norm == pytest.approx(math.sqrt(2) * size, rel=1e-9)
    assert found.std == pytest.approx(math.sqrt(2 / 3) * size, rel=1e-9)
    assert found.mean == 0
    assert type(found.mean) is float
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(8, 8).tril(-1).bool(),
        torch.zeros(4, 4, dtype=torch.int64),
        torch.tensor(250_000.0),
        torch.tensor([250_001]),
    ],
)
def test_masks_indices_and_counters_are_not_flagged(tensor: Any, tmp_path: Path) -> None:
    torch.save({"x": tensor, "w": torch.randn(4, 4)}, tmp_path / "a.pt")
    assert holdfast.stats(tmp_path / "a.pt").flagged == ()


def test_nan_in_one_part_of_a_complex_number(tmp_path: Path) -> None:
    found = of(
        torch.complex(torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0])), tmp_path
    )
    assert (found.nans, found.infs) == (1, 0)


def test_odd_numbers_are_no_warnings(tmp_path: Path) -> None:
    """pytest makes errors of NumPy's; a signalling NaN is one that a conversion quietens."""
    signalling = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
    assert of(signalling, tmp_path).nans == 1
    assert of(torch.tensor([math.inf, -math.inf, 1.0]), tmp_path).infs == 2


def test_more_axes_than_numpy_knows(tmp_path: Path) -> None:
    tensor = torch.randn(2, 3).t()[(None,) * 30][(None,) * 40]
    assert of(tensor, tmp_path).counted == 6


def test_progress_is_what_is_read(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(1).expand(10**12), "y": torch.ones(3)}, tmp_path / "a.pt")
    told: list[int] = []
    holdfast.stats(tmp_path / "a.pt", on_progress=told.append)
    assert sorted(told) == [4, 12]


_MEASURED = """
import sys
import holdfast
report = getattr(holdfast, sys.argv[1])(*sys.argv[2:])
assert "torch" not in sys.modules
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("kind", ["float32", "bfloat16, transposed"])
@pytest.mark.parametrize("what", ["stats", "diff"])
def test_memory_does_not_grow_with_the_file(what: str, kind: str, tmp_path: Path) -> None:
    """Of a tensor of 400 MB; the 256 MiB are those of the promise."""
    files = [tmp_path / "a.pt", tmp_path / "b.pt"][: 1 if what == "stats" else 2]
    for number, file in enumerate(files):
        if kind == "float32":
            tensor = torch.full((100, 1_000_000), float(number + 1))
        else:
            tensor = torch.full((10_000, 20_000), float(number + 1), dtype=torch.bfloat16).t()
        torch.save({"x": tensor}, file)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, what, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 256 * 1024
