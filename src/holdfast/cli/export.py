"""``holdfast export``: a model and a checkpoint become a program."""

from __future__ import annotations

import re

import click

from holdfast.cli import inputs as given
from holdfast.cli.options import json_option
from holdfast.cli.output import answer, answer_json
from holdfast.errors import UsageError

_HELP = """\b
Examples:
  holdfast export train.py:make_model runs/iris@best:loss iris.onnx --input 1x4
  holdfast export net.py:Net model.pt net.ts --input x=1x3x224x224 --input scale=scalar
  holdfast export net.py:Net - net.pt2 --input 2x16:int64:1000 --dynamic none
  holdfast export net.py:Net model.pt net.onnx --input x.npy --opset 13

Write a model with its computation: TorchScript (.ts), torch.export (.pt2) or ONNX (.onnx). The
model is what MAKE gives, called without arguments: your own code, which runs. Then the weights of
CHECKPOINT are loaded into it (- for none). The file is compared with the model, on other sizes and
values, too, before it gets its name.

An input is a shape (random numbers; of integers all below the last number) or a .npy file.
"""


@click.command(help=_HELP, short_help="A model and a checkpoint become a program.")
@click.argument("make", metavar="SCRIPT.py:MAKE")
@click.argument("checkpoint")
@click.argument("out")
@click.option("--input", "inputs", multiple=True, required=True, metavar="INPUT")
@click.option(
    "--dynamic",
    multiple=True,
    metavar="NAME:DIM=AS",
    help="Dynamic dimensions: batch (the default), none, or x:0=batch; can be repeated.",
)
@click.option("--opset", type=int, help="Of ONNX: this operator set, or an error.")
@click.option("--method", type=click.Choice(["script", "trace"]), default="script")
@click.option("--trace", multiple=True, metavar="SUBMODULE", help="Trace that one in a script.")
@click.option(
    "--format", type=click.Choice(["torchscript", "pt2", "onnx"]), help="If OUT has none."
)
@click.option("--train", is_flag=True, help="Of TorchScript: keep the modes that MAKE sets.")
@click.option("--trust", multiple=True, metavar="SCRIPT.py:CLASS", help="CHECKPOINT may build it.")
@click.option("--freeze", is_flag=True, help="Of TorchScript: weights become constants.")
@click.option("--no-check", is_flag=True, help="Write it without comparing it with the model.")
@click.option("--input-name", multiple=True, metavar="NAME", help="Call the inputs so.")
@click.option("--output-name", multiple=True, metavar="NAME", help="Call the outputs so.")
@json_option("path, format, method, nbytes, opset, inputs, outputs, checked, files, notes, record")
def command(
    make: str,
    checkpoint: str,
    out: str,
    inputs: tuple[str, ...],
    dynamic: tuple[str, ...],
    opset: int | None,
    method: str,
    trace: tuple[str, ...],
    format: str | None,
    train: bool,
    trust: tuple[str, ...],
    freeze: bool,
    no_check: bool,
    input_name: tuple[str, ...],
    output_name: tuple[str, ...],
    as_json: bool,
) -> None:
    """Export a program."""
    parsed = [given.parse(text) for text in inputs]
    wanted = dynamic_of(dynamic)
    # What it needs of torch is imported when it is called.
    from holdfast.exporting import export
    from holdfast.programs.making_models import model_by, object_by, tensors_of

    arrays = [(one.name, given.array_of(one, number)) for number, one in enumerate(parsed)]
    report = export(
        model_by(make),
        tensors_of(given.as_example(arrays)),
        out,
        dynamic=wanted,
        opset=opset,
        format=format,
        method=dict.fromkeys(trace, "trace") if trace else method,
        train=train,
        trust=[object_by(text) for text in trust],
        freeze=freeze,
        check=not no_check,
        checkpoint=None if checkpoint == "-" else checkpoint,
        input_names=input_name or None,
        output_names=output_name or None,
    )
    if as_json:
        answer_json(report.to_json())
    else:
        answer(str(report))


def dynamic_of(texts: tuple[str, ...]) -> str | dict[str, dict[int, str]] | None:
    """Read ``batch``, ``none``, or any number of ``x:0=batch``.

    Raises:
        UsageError: it is none of these.
    """
    if texts in ((), ("batch",)):
        return "batch"
    if texts == ("none",):
        return None
    found: dict[str, dict[int, str]] = {}
    for text in texts:
        place, equals, name = text.partition("=")
        port, colon, dim = place.rpartition(":")
        if not equals or not colon or not port or not re.fullmatch("-?[0-9]{1,3}", dim):
            raise UsageError(
                "this does not say which dimension is dynamic",
                wanted="batch, none, or INPUT:DIMENSION=NAME, such as x:0=batch",
                found=repr(text),
            )
        found.setdefault(port, {})[int(dim)] = name
    return found
