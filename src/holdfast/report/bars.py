"""A histogram as one line of text."""

from __future__ import annotations

from collections.abc import Sequence

#: Eighths of a line's height; what is counted at all is seen.
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_WIDTH = 16


def bars(counts: Sequence[int], width: int = _WIDTH) -> str:
    """Counts as bars, several bins in one where there are more than ``width``."""
    per = -(-len(counts) // width) or 1
    sums = [sum(counts[at : at + per]) for at in range(0, len(counts), per)]
    largest = max(sums, default=0)
    return "".join(_HEIGHTS[-(-8 * each // largest)] if largest else " " for each in sums)
