"""How long saves take, and what this machine could do at best, in turn."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from holdfast.benchmark import measure, names
from holdfast.benchmark.limits import Buffers, Copy, crc_of, write_plain
from holdfast.benchmark.measure import Contender, Samples
from holdfast.benchmark.meters import Meter, Sample, measured
from holdfast.benchmark.savers import Saver
from holdfast.benchmark.workloads import Workload
from holdfast.errors import HoldfastError

log = logging.getLogger("holdfast")

#: What is measured beside the savers, in the same rounds.
LIMITS = (names.WRITE, names.COPY, names.CRC)


def opened(
    savers: Sequence[Saver], workload: Workload, folder: Path, stack: contextlib.ExitStack
) -> tuple[list[Saver], dict[str, str]]:
    """Open each, to be closed with the stack; for those of others that fail, why."""
    ready, failed = [], {}
    for number, saver in enumerate(savers):
        try:
            saver.open(workload, folder / f"of-{number}")
        except HoldfastError:
            raise
        except Exception as error:  # another library's, of whatever kind
            failed[saver.name] = measure.reason(error)
            continue
        stack.callback(_closed, saver)
        ready.append(saver)
    return ready, failed


def _closed(saver: Saver) -> None:
    try:
        saver.close()
    except HoldfastError:
        raise
    except Exception as error:  # another library's, when all that it was asked for is measured
        log.warning("%s could not be closed: %s", saver.name, measure.reason(error))


def measure_saves(
    savers: Sequence[Saver],
    workload: Workload,
    folder: Path,
    repeat: int,
    on_sample: Callable[[str], object],
) -> Samples:
    """Samples of the limits and of the savers, which are open."""
    contenders = _limits(workload, folder)
    for number, saver in enumerate(savers):
        contenders[saver.name] = partial(_save, saver, workload, folder / f"by-{number}")
    samples = measure.alternating(contenders, repeat, on_sample=on_sample)
    gc.collect()
    return samples


def _limits(workload: Workload, folder: Path) -> dict[str, Contender]:
    tensors, buffers = list(workload.tensors().values()), Buffers()
    nbytes = sum(tensor.nbytes for tensor in tensors)
    copy = Copy(tensors)

    def write(number: int) -> Sample:
        path = folder / f"plain-{number}"
        sample = measured(lambda: write_plain(path, nbytes, buffers))
        path.unlink()
        return sample

    return {
        names.WRITE: write,
        names.COPY: lambda number: measured(copy),
        names.CRC: lambda number: measured(lambda: crc_of(tensors)),
    }


def _save(saver: Saver, workload: Workload, stem: Path, number: int) -> Sample:
    """Save once, to a fresh name, and wait until it is durable; the file is removed untimed."""
    path = stem.with_name(f"{stem.name}-{number}")
    meter = Meter()
    flight = saver.begin(workload, path)
    if saver.is_background:
        meter.lap()
    flight.wait()
    sample = meter.stop()
    saver.clean(path)
    return sample
