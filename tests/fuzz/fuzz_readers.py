"""Fuzz the readers and the scan: ``make fuzz``, or ``python -m tests.fuzz.fuzz_readers CORPUS…``.

Options are those of libFuzzer: https://llvm.org/docs/LibFuzzer.html. A finding is written to
``crash-…``; ``python -m tests.fuzz.fuzz_readers crash-…`` shows it again.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import atheris

with atheris.instrument_imports(include=["holdfast"]):
    from tests.fuzz.target import limit_memory, look

    import holdfast.arrays
    import holdfast.formats
    import holdfast.pickles

    # Readers are imported when they are first needed: too late to be watched.
    for package in (holdfast.arrays, holdfast.formats, holdfast.pickles):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


if __name__ == "__main__":
    # libFuzzer starts itself again by this name where it merges.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.fuzz_readers", *sys.argv[1:]], look)
    limit_memory()
    atheris.Fuzz()
