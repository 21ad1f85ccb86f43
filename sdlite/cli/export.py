"""``sdlite export``: a checkpoint becomes a package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sdlite import home
from sdlite.cli.edge import common, tell
from sdlite.cli.extras import export_part
from sdlite.cli.progress import ByteBar, wanted
from sdlite.settings import choice

FORMATS = ("onnx",)
PRECISIONS = ("fp16", "fp32")


@click.command(short_help="Make a package of a checkpoint.")
@click.argument("source", metavar="SOURCE")
@click.argument("dest", metavar="[DEST]", required=False)
@click.option(
    "--precision",
    metavar="NAME",
    default="fp16",
    help="fp16 (half the size, the default) or fp32.",
)
@click.option("--format", metavar="NAME", default="onnx", help="onnx, the only one so far.")
@click.option(
    "--force", is_flag=True, help="Replace DEST if it is there, once the new one is done."
)
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: path, sizes, seconds."
)
@common
def export(
    source: str,
    dest: str | None,
    precision: str,
    format: str,
    force: bool,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Make a package folder of SOURCE, without PyTorch.

    SOURCE is a Stable Diffusion checkpoint: one .safetensors or .ckpt file, or a diffusers folder.
    DEST is a new folder; without it the package goes to your models and is called like SOURCE.
    Nothing in SOURCE is executed. If the export fails or is interrupted, nothing is left of it.

    \b
    Examples:
      sdlite export dream.safetensors
      sdlite generate --model dream "a castle on a hill"
      sdlite export dream.safetensors /big/disk/dream --precision fp32
    """
    choice(PRECISIONS)("--precision", precision)
    choice(FORMATS)("--format", format)
    part = export_part("export")
    path = Path(source)
    target = Path(dest) if dest is not None else home.folders().models / path.stem
    with ByteBar(None, wanted(progress)) as bar:
        report = part.export_package(
            path,
            target,
            precision=precision.lower(),
            force=force,
            progress=bar.set,
        )
    if as_json:
        click.echo(json.dumps(_described(report), indent=1))
        return
    click.echo(str(report.path))
    tell(_closing_line(report))


def _described(report: Any) -> dict[str, object]:
    return {}


def _closing_line(report: Any) -> str:
    return ""
