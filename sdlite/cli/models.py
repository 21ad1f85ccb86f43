"""``sdlite models``: what is on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sdlite import home
from sdlite.cli.edge import common
from sdlite.cli.harmless import harmless
from sdlite.cli.table import readable, table


@click.command(short_help="List models, and add folders that have some.")
@click.option(
    "--add",
    metavar="DIR",
    help="Look for models in DIR too: packages, or the folder of A1111's web UI or ComfyUI.",
)
@click.option("--remove", metavar="DIR", help="Forget DIR; nothing in it is touched.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def models(add: str | None, remove: str | None, as_json: bool) -> None:
    """List models: name, size, family, precision and where they are.

    Checkpoints of other programs are listed with the command that makes a package of them.

    \b
    Example:
      sdlite models --add ~/stable-diffusion-webui
    """
    from sdlite.upscalers.files import installed, waiting

    if remove is not None:
        home.remove_folder(Path(remove))
    if add is not None:
        home.add_folder(Path(add))
    found = [home.describe(model) for model in home.models()]
    upscalers = installed()
    if as_json:
        document = {
            "folders": [str(folder) for folder in home.search_folders()],
            "models": [_described(item) for item in found],
            "upscalers": [
                {"name": f.name, "path": str(f.path), "kind": f.kind, "scale": f.scale}
                for f in upscalers
            ],
        }
        click.echo(json.dumps(document, indent=1))
        return
    rows = [
        (
            item.model.name,
            readable(item.size),
            item.family or "-",
            item.precision or "-",
            str(item.model.path),
        )
        for item in found
    ]
    click.echo(table(("NAME", "SIZE", "FAMILY", "PRECISION", "WHERE"), rows))
    for item in found:
        if item.problem is not None:
            click.echo(harmless(f"{item.model.name}: {item.problem}"))
    if upscalers:
        lines = [(file.name, f"x{file.scale}", file.kind, str(file.path)) for file in upscalers]
        click.echo(table(("UPSCALER", "SCALE", "KIND", "WHERE"), lines))
    for path in waiting():
        click.echo(harmless(f"{path.stem}: an upscaler, needs export: sdlite export {path}"))
    click.echo(f"your packages go to {home.folders().models}")


def _described(item: home.Description) -> dict[str, object]:
    return {
        "name": item.model.name,
        "path": str(item.model.path),
        "kind": item.model.kind,
        "ready": item.problem is None,
        "size": item.size,
        "family": item.family,
        "precision": item.precision,
        "problem": item.problem,
    }
