"""``holdfast call``: run a program on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from holdfast.cli import inputs as given
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer_json, answer_table, say
from holdfast.errors import FileError, UsageError

_HELP = """\b
Examples:
  holdfast call iris.onnx --input x.npy
  holdfast call net.ts --trust --input x=x.npy --save out.npz
  holdfast call net.onnx --input 4x3x224x224

Run a program on .npy files or on random numbers of a shape, and print what it gives, or save it.
TorchScript (.ts) and torch.export (.pt2) files are code that runs here: they need --trust.
"""

#: More numbers than these are not printed one by one.
_SHOWN = 10


@click.command(help=_HELP, short_help="Run a program on arrays.")
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, metavar="INPUT", help="[NAME=]FILE.npy or SHAPE.")
@click.option("--save", type=click.Path(path_type=Path), help="Save outputs: one as .npy, or .npz.")
@click.option("--trust", is_flag=True, help="Run the code in it: you know who made the file.")
@click.option("--device", default="cpu", show_default=True)
@json_option("outputs (each: name, dtype, shape, values; null above 10,000)")
def command(
    program: Path,
    inputs: tuple[str, ...],
    save: Path | None,
    trust: bool,
    device: str,
    as_json: bool,
) -> None:
    """Call a program."""
    parsed = [given.parse(text) for text in inputs]
    if save is not None and save.suffix not in (".npy", ".npz"):
        raise UsageError("outputs are saved as .npy or .npz", found=str(save))
    # What it needs of torch is imported when it is called.
    from holdfast.exporting import load_program

    loaded = load_program(program, device=device, trust=trust)
    arrays = [(one.name, given.array_of(one, number)) for number, one in enumerate(parsed)]
    example = given.as_example(arrays)
    result = loaded(**example) if isinstance(example, dict) else loaded(*example)
    outputs = named(result)
    if save is not None:
        _save(outputs, save)
        say(f"saved {', '.join(outputs)} to {save}")
    if as_json:
        answer_json({"outputs": [_json(name, array) for name, array in outputs.items()]})
    elif save is None:
        answer_table(_cells(name, array) for name, array in outputs.items())


def named(result: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arrays in what a program gives, by the names that ``export`` gives them."""
    if isinstance(result, Mapping):
        items: Any = result.items()
    elif isinstance(result, tuple | list):
        items = ((str(place), each) for place, each in enumerate(result))
    else:
        is_named = bool(path) and not path[0].isdigit()
        return {".".join(path if is_named else ("output", *path)): np.asarray(result)}
    return {name: array for key, each in items for name, array in named(each, (*path, key)).items()}


def _cells(name: str, array: Any) -> list[Cell]:
    shape = "x".join(map(str, array.shape)) or "scalar"
    numbers = " ".join(f"{value:.6g}" for value in array.reshape(-1)[:_SHOWN].tolist())
    more = f" … {array.size - _SHOWN:,} more" if array.size > _SHOWN else ""
    return [
        Cell(name, bold=True),
        Cell(str(array.dtype), fg="cyan"),
        Cell(shape),
        Cell(numbers + more),
    ]


def _json(name: str, array: Any) -> dict[str, Any]:
    values = array.tolist() if array.size <= 10_000 else None
    return {"name": name, "dtype": str(array.dtype), "shape": list(array.shape), "values": values}


def _save(outputs: Mapping[str, Any], file: Path) -> None:
    if file.suffix == ".npy" and len(outputs) != 1:
        raise UsageError("one .npy file holds one output", wanted=".npz", found=", ".join(outputs))
    try:
        if file.suffix == ".npy":
            np.save(file, next(iter(outputs.values())))
        else:
            np.savez(file, **outputs)
    except OSError as error:
        raise FileError(
            f"the outputs cannot be saved: {error.strerror or error}", errno=error.errno, file=file
        ) from error
