"""``sdlite bake``: LoRAs merged into a package for good."""

from __future__ import annotations

from pathlib import Path

import click

from sdlite import home
from sdlite.cli.edge import common, tell
from sdlite.cli.loras import lora_options, read_loras
from sdlite.cli.progress import ByteBar, wanted
from sdlite.cli.table import readable
from sdlite.errors import RequestError


@click.command(short_help="Merge LoRAs into a package for good.")
@click.argument("package", metavar="PACKAGE")
@click.argument("dest", metavar="DEST")
@lora_options(required=True)
@click.option("--name", metavar="NAME", help="Model name in the package. Default: DEST's.")
@click.option(
    "--force", is_flag=True, help="Replace DEST if it is there, once the new one is done."
)
@click.option("--progress/--no-progress", default=None, help="Show a bar. Default: in a terminal.")
@common
def bake(
    package: str,
    dest: str,
    loras: tuple[str, ...],
    lora_weight: float,
    name: str | None,
    force: bool,
    progress: bool | None,
) -> None:
    """Write DEST, a copy of PACKAGE whose weights are merged with LoRAs.

    DEST draws what PACKAGE draws with them, without reading them. PACKAGE is a model's name or
    folder and stays as it is.

    \b
    Examples:
      sdlite bake dream ~/models/dream-ink --lora ink.safetensors=0.8
    """
    from sdlite.bake import bake as bake_package
    from sdlite.foreign import is_foreign
    from sdlite.package import Package

    path = home.find_model(package)
    if is_foreign(path):
        raise RequestError(
            f"{path} is no package; make one of the original model with sdlite export"
        )
    opened = Package.open(path)
    uses = read_loras(loras, lora_weight)
    with ByteBar(opened.size(), wanted(progress)) as bar:
        made = bake_package(opened, uses, Path(dest), name=name, force=force, progress=bar)
    click.echo(dest)
    tell(f"{made.manifest.name}: {readable(made.size())}, licence {made.manifest.licence.id}")
