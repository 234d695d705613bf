"""Several ways of doing one thing, each in turn, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from holdfast.benchmark.meters import Sample
from holdfast.benchmark.report import Row, Spread
from holdfast.errors import HoldfastError

#: Does one thing once; the number of the round makes names of files fresh.
Contender = Callable[[int], Sample]


@dataclass(slots=True)
class Samples:
    """All samples by name, the first of each from the unrecorded round; ``failed`` says why."""

    taken: dict[str, list[Sample]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def alternating(
    contenders: Mapping[str, Contender],
    repeat: int,
    *,
    on_sample: Callable[[str], object] = lambda name: None,
) -> Samples:
    """Let each have its turn, A B C A B C …, once unrecorded and then ``repeat`` times.

    A contender that fails is left out from then on; an error of holdfast itself is raised.
    """
    samples = Samples({name: [] for name in contenders})
    for number in range(repeat + 1):
        for name, contender in contenders.items():
            if name in samples.failed:
                continue
            on_sample(name)
            try:
                samples.taken[name].append(contender(number))
            except HoldfastError:
                raise
            except Exception as error:  # another library's, of whatever kind
                samples.failed[name] = reason(error)
                del samples.taken[name]
    return samples


def reason(error: BaseException) -> str:
    """Why something failed, on one line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def row(name: str, samples: list[Sample], *, into: str | None = None) -> Row:
    """What the samples of one contender come to; times of the first one do not count."""
    recorded = samples[1:]
    peaks = [sample.peak_nbytes for sample in samples if sample.peak_nbytes is not None]
    blocked = [sample.blocked for sample in recorded if sample.blocked is not None]
    return Row(
        name,
        Spread.of([sample.seconds for sample in recorded]),
        Spread.of([sample.cpu_seconds for sample in recorded]),
        max(peaks) if peaks else None,
        Spread.of(blocked) if blocked else None,
        into,
    )
