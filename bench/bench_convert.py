"""How long ``holdfast convert`` takes beside what people use, and how much memory it needs.

    python bench/bench_convert.py [--gib 16] [--peer-gib 2] [--runs 3] [--folder DIR]

The first file is large and a hole but for its headers, so that only the converted one takes room
on the disk; what counts there is memory. The second, smaller one is converted in turn by holdfast
and by the lines people write, ``torch.load`` and ``save_file``, each a whole process.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_show import GIB, large, run

_OURS = [sys.executable, "-m", "holdfast", "convert"]
_THEIRS = [
    sys.executable,
    "-c",
    "import sys, torch; from safetensors.torch import save_file;"
    "save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])",
]


def show(name: str, taken: list[tuple[float, float]]) -> float:
    seconds = [each for each, _ in taken]
    print(
        f"{name:44}  median {statistics.median(seconds):7.2f} s  "
        f"({min(seconds):.2f} to {max(seconds):.2f})  "
        f"peak {max(memory for _, memory in taken):5.0f} MiB",
        flush=True,
    )
    return statistics.median(seconds)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    options.add_argument("--gib", type=int, default=16)
    options.add_argument("--peer-gib", type=int, default=2)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--folder", type=Path)
    options.add_argument("--make", nargs=2, metavar=("GIB", "PATH"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.make:
        large(Path(chosen.make[1]), nbytes=int(chosen.make[0]) * GIB)
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="bench-convert-") as temporary:
        source, target = Path(temporary) / "large.pt", Path(temporary) / "out.safetensors"
        environment = dict(os.environ)
        for gib, is_peer in ((chosen.gib, False), (chosen.peer_gib, True)):
            make = [sys.executable, __file__, "--make", str(gib), str(source)]
            subprocess.run(make, check=True)
            ours = [*_OURS, str(source), str(target)]
            if not is_peer:
                show(f"{gib} GiB.pt to .safetensors", [run(ours, environment)])
                continue
            pairs = [
                (run(ours, environment), run([*_THEIRS, str(source), str(target)], environment))
                for _ in range(chosen.runs)
            ]
            show(f"{gib} GiB: holdfast convert (durable, checked)", [a for a, _ in pairs])
            show(f"{gib} GiB: torch.load, save_file (neither)", [b for _, b in pairs])
            ratios = [a[0] / b[0] for a, b in pairs]
            print(f"ratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
