"""``sdlite merge``: several checkpoints become one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from sdlite.cli.edge import common, tell
from sdlite.cli.extras import export_part
from sdlite.cli.progress import ByteBar, wanted
from sdlite.cli.table import readable
from sdlite.settings import choice

PRECISIONS = ("fp16", "bf16", "fp32")


@click.command(short_help="Mix checkpoints into a new one.")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--multiplier",
    type=float,
    default=0.5,
    help="Share of SECOND, 0 to 1; with --minus how much is added, -2 to 2. Default 0.5.",
)
@click.option(
    "--minus",
    type=click.Path(path_type=Path),
    metavar="BASE",
    help="Add what SECOND differs from BASE by, instead of mixing.",
)
@click.option(
    "--precision",
    metavar="NAME",
    help="fp16, bf16 or fp32. Default: FIRST's, tensor by tensor.",
)
@click.option("--force", is_flag=True, help="Replace DEST if it is there.")
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def merge(
    first: Path,
    second: Path,
    dest: Path,
    multiplier: float,
    minus: Path | None,
    precision: str | None,
    force: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Mix the checkpoints FIRST and SECOND into the new file DEST.

    All are single files (.safetensors, .ckpt, .gguf) of one family; DEST ends in .safetensors.
    Nothing in them is executed, and they are read tensor by tensor. What only FIRST has stays as it
    is.

    \b
    Examples:
      sdlite merge a.safetensors b.safetensors both.safetensors --multiplier 0.3
      sdlite merge a.safetensors inpainting.safetensors new.safetensors --minus sd15.safetensors
    """
    if precision is not None:
        precision = choice(PRECISIONS)("--precision", precision)
    part = export_part("merge")
    with ByteBar(None, wanted(progress)) as bar:
        report = part.merge_checkpoints(
            first,
            second,
            dest,
            minus=minus,
            multiplier=multiplier,
            precision=precision,
            force=force,
            progress=bar.set,
        )
    if as_json:
        click.echo(json.dumps({**asdict(report), "path": str(dest.absolute())}, indent=1))
        return
    click.echo(str(report.path))
    for note in report.notes:
        tell(f"note: {note}")
    words = [f"{report.merged} tensors mixed, {report.kept} kept", readable(report.size)]
    words.append(f"{report.seconds:.1f} s")
    if report.peak_bytes is not None:
        words.append(f"peak memory {readable(report.peak_bytes)}")
    tell(", ".join(words))
