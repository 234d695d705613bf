"""Reading with Python's collector of cycles at rest."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """All that an index is made of stays, and none of it is a cycle: looking for those is in vain.

    (100,000 tensors of safetensors: 2.0 s with the collector, 1.1 s without.)
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
