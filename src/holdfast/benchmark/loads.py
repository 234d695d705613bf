"""How long loads take, of a file in the page cache and of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from holdfast.benchmark import measure, names, page_cache
from holdfast.benchmark.limits import Buffers, read_plain
from holdfast.benchmark.loaders import LOADERS, Loader
from holdfast.benchmark.measure import Contender, Samples
from holdfast.benchmark.meters import Sample, measured
from holdfast.benchmark.report import Row
from holdfast.benchmark.workloads import Workload
from holdfast.training import save_state

Tell = Callable[[str], object]
_INTO = {loader.name: loader.into for loader in LOADERS}

#: Said where the page cache keeps what it was told to drop.
NO_COLD = "the page cache of this file system does not drop a file"


def measure_loads(
    workload: Workload, folder: Path, repeat: int, on_sample: Tell
) -> tuple[tuple[Row, ...], tuple[Row, ...], dict[str, str]]:
    """Rows of warm loads, of cold ones, and why some are missing.

    All load the same file: holdfast writes what torch reads.
    """
    path = folder / "loaded.pt"
    save_state(path, **workload.parts)
    warm = measure.alternating(_contenders(workload, path, _warm), repeat, on_sample=on_sample)
    if not page_cache.drop(path):
        return _rows(warm), (), {**warm.failed, "cold loads": NO_COLD}
    cold = measure.alternating(_contenders(workload, path, _cold), repeat, on_sample=on_sample)
    path.unlink()
    return _rows(warm), _rows(cold), {**warm.failed, **cold.failed}


def _contenders(
    workload: Workload, path: Path, prepare: Callable[[Path], object]
) -> dict[str, Contender]:
    buffers, is_cold = Buffers(), prepare is _cold

    def read(_: Workload, path: Path) -> None:
        read_plain(path, buffers, past_cache=is_cold)

    loaders = (Loader(names.READ, "", read), *LOADERS)
    return {each.name: partial(_load, each, workload, path, prepare) for each in loaders}


def _load(
    loader: Loader,
    workload: Workload,
    path: Path,
    prepare: Callable[[Path], object],
    number: int,
) -> Sample:
    prepare(path)
    return measured(lambda: loader.load(workload, path))


def _warm(path: Path) -> None:
    page_cache.warm(path)


def _cold(path: Path) -> None:
    page_cache.drop(path)


def _rows(samples: Samples) -> tuple[Row, ...]:
    taken = samples.taken.items()
    return tuple(measure.row(name, each, into=_INTO.get(name)) for name, each in taken)
