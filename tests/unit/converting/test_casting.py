"""torch is the oracle for every pair of types, every pattern of 8 and 16 bits, and many others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import holdfast
from holdfast.converting.casting import cast
from holdfast.spec.dtypes import BY_NAME

TARGETS = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


def patterns(name: str) -> torch.Tensor:
    dtype = getattr(torch, name)
    if dtype.itemsize <= 2:
        bits = np.arange(256**dtype.itemsize).astype(f"u{dtype.itemsize}")
    else:
        wide = np.random.default_rng(0).standard_normal(200_000)
        scale = np.exp2(np.random.default_rng(1).uniform(-30, 20, wide.size))
        edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 448, 464, 465, -465, 480, 1e300, 65519, 65520]
        ties = np.arange(1, 4096) * 2.0**-12  # halfway between numbers of every small type
        near = [ties * (1 + sign * 2.0**-40) for sign in (-1, 1)]
        bits = np.concatenate([wide * scale, edges, ties, *near])
        with np.errstate(over="ignore"):
            bits = bits.astype(f"f{dtype.itemsize}")
    return torch.from_numpy(bits).view(dtype)


@pytest.mark.parametrize("wanted", TARGETS)
@pytest.mark.parametrize("found", TARGETS)
def test_every_number_is_cast_as_torch_casts_it(found, wanted):
    x = patterns(found)
    size = x.element_size()
    source = x.view(getattr(torch, f"uint{8 * size}")).numpy().view(BY_NAME[found].numpy())
    with np.errstate(over="ignore", invalid="ignore"):
        made, lost = cast(source, BY_NAME[wanted])
    target = getattr(torch, wanted)
    ours = torch.from_numpy(made.view(f"u{target.itemsize}")).view(target).double()
    theirs = x.to(target).double()
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    assert torch.equal(ours.signbit() | ours.isnan(), theirs.signbit() | theirs.isnan())
    beyond = x.double().isfinite() & (ours.isinf() | ours.isnan())
    if wanted == "float8_e4m3fn":
        beyond = x.double().isfinite() & (x.float().abs() > 464)
    assert lost == int(beyond.sum())


def test_what_fp8_cannot_hold_becomes_its_largest_number_and_is_counted(tmp_path):
    x = torch.tensor([1.0, 464.0, 465.0, -1e6, float("inf"), float("nan")])
    torch.save({"w": x}, tmp_path / "a.pt")
    report = holdfast.convert(tmp_path / "a.pt", tmp_path / "b.pt", dtype="fp8_e4m3")
    made = torch.load(tmp_path / "b.pt", weights_only=True)["w"].float()
    assert made[:5].tolist() == [1.0, 448.0, 448.0, -448.0, 448.0]
    assert made[5].isnan()
    assert report.unfit == {"w": 2}
