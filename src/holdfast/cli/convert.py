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
  holdfast convert a.pt b.pt --rename 'module. -> ' --rename 'enc.*.w -> encoder.*.weight'

Write the weights of any checkpoint that holdfast reads as .safetensors or .pt. Nothing in it is
run, torch is not needed, the source is never changed, and the new file is there whole or not at
all. Without --part, --dtype, --rename and --plain, a .pt keeps all of a checkpoint that is plain.
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
    for file, nbytes in report.files.items():
        answer(f"{file}: {text.size(nbytes)}")
    done = "would be written" if report.is_dry_run else "written"
    taken = "" if report.part is None else f" of {report.part}"
    tied = sum(item.tied_to is not None for item in report.items)
    names = f" under {len(report.items):,} names" if tied else ""
    tensors = text.count(len(report.items) - tied, "tensor")
    answer(f"{tensors}{taken} {done}{names}, {text.size(report.nbytes)}")
    for note in (notes := _notes(report))[:_NOTES]:
        answer(f"Note: {note}")
    if len(notes) > _NOTES:
        answer(f"… and {len(notes) - _NOTES} more notes (--json has them all)")


#: Notes that a person reads.
_NOTES = 20


def _cells(item: Item) -> list[Cell]:
    was = [
        f"was {item.old_name}" if item.old_name != item.name else "",
        f"was {item.found.name}" if item.found is not item.dtype else "",
        f"the same as {item.tied_to}" if item.tied_to else "",
    ]
    return [
        Cell(text.name(item.name)),
        Cell(item.dtype.name, fg="cyan"),
        Cell(text.shape(item.shape)),
        Cell(text.size(item.nbytes), right=True),
        Cell(", ".join(each for each in was if each), dim=True),
    ]


def _notes(report: ConvertReport) -> list[str]:
    notes = list(report.notes)
    if report.left_out:
        few = ", ".join(text.name(name) for name in report.left_out[:5])
        more = f" and {len(report.left_out) - 5} more" if len(report.left_out) > 5 else ""
        of = "this part" if report.part else "a plain file"
        notes.append(f"left out, as they have no place in {of}: {few}{more}")
    tied = [item for item in report.items if item.tied_to]
    notes += [f"{item.name} is {item.tied_to}: stored once" for item in tied[:5]]
    for name, count in list(report.unfit.items())[:5]:
        numbers = text.count(count, "number")
        notes.append(f"{numbers} of {name} did not fit: infinite, NaN or the type's largest now")
    if len(report.unfit) > 5:
        notes.append(f"the same in {len(report.unfit) - 5} more tensors (--json has them all)")
    return notes
