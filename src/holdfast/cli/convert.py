"""``holdfast convert``: the weights of any checkpoint in another format."""

from __future__ import annotations

import click

from holdfast import looking
from holdfast.cli import text
from holdfast.cli.options import json_option
from holdfast.cli.output import Cell, answer, answer_json, answer_table
from holdfast.converting.items import Item
from holdfast.converting.report import ConvertReport
from holdfast.spec import rename as rules

_HELP = """\b
Examples:
  holdfast convert model.pt model.safetensors
  holdfast convert runs/iris@best:loss iris.safetensors --part model
  holdfast convert old_model.pth weights.pt          a whole pickled model: its weights
  holdfast convert model.pt small.safetensors --dtype bf16
  holdfast convert model.pt llm --shard-size 5GB     a folder of several files
  holdfast convert model.pt model.dcp                a folder of torch.distributed.checkpoint
  holdfast convert a.pt b.pt --rename 'module. -> ' --rename 'enc.*.w -> encoder.*.weight'

Write the weights of any checkpoint that holdfast reads as .safetensors or .pt, or as a folder .dcp.
Nothing in it is run, torch is not needed, the source is never changed, and what is new is there
whole or not at all. Without --part, --dtype, --rename and --plain, a .pt and a .dcp keep all of a
checkpoint that is plain.
"""


@click.command(help=_HELP, short_help="The weights of any checkpoint in another format.")
@click.argument("src")
@click.argument("dst")
@click.option("--part", metavar="NAME", help="Take this part only: model, model.encoder, ...")
@click.option("--dtype", metavar="TYPE", help="bf16, fp16, fp32, fp64, fp8_e4m3 or fp8_e5m2.")
@click.option("--rename", multiple=True, metavar="'OLD -> NEW'", help="Rename; can be repeated.")
@click.option(
    "--shard-size", metavar="SIZE", help="Several files of at most so many bytes of tensors: 5GB."
)
@click.option("--plain", is_flag=True, help="A plain dict of tensors, which LibTorch reads.")
@click.option("--dry-run", is_flag=True, help="Write nothing; say what would be written.")
@json_option(
    "source, format_from, format_to, part, files, nbytes, tensors (each: name, old_name, shape, "
    "old_dtype, dtype, nbytes, tied_to), left_out, notes, unfit, is_dry_run"
)
def command(
    src: str,
    dst: str,
    part: str | None,
    dtype: str | None,
    rename: tuple[str, ...],
    shard_size: str | None,
    plain: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert a checkpoint."""
    report = looking.convert(
        src,
        dst,
        part=part,
        dtype=dtype,
        rename=dict(map(rules.parse, rename)) or None,
        shard_size=shard_size,
        plain=plain,
        dry_run=dry_run,
    )
    if as_json:
        answer_json(report.to_json())
    else:
        _print(report)


def _print(report: ConvertReport) -> None:
    if report.is_dry_run:
        answer_table(_cells(item) for item in report.items)
        answer()
    answer(report.to_text())


def _cells(item: Item) -> list[Cell]:
    was = [
        f"was {item.old_name}" if item.old_name != item.name else "",
        f"was {item.found.name}" if item.found is not item.dtype else "",
        f"the same as {item.tied_to}" if item.tied_to else "",
    ]
    return [
        Cell(text.shortened(item.name)),
        Cell(item.dtype.name, fg="cyan"),
        Cell(text.shape(item.shape)),
        Cell(text.size(item.nbytes), right=True),
        Cell(", ".join(each for each in was if each), dim=True),
    ]
