"""``sdlite info``: the parameters a picture carries."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sdlite.cli.edge import common
from sdlite.cli.harmless import harmless
from sdlite.errors import SdliteError


@click.command(short_help="Print the parameters a picture carries.")
@click.argument("pictures", metavar="PICTURE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with the parsed fields.")
@common
def info(pictures: tuple[str, ...], as_json: bool) -> None:
    """Print prompt, seed and settings that sdlite, A1111 and others write into PNG, JPEG and WebP.

    \b
    Example:
      sdlite info circle.png
    """
    from sdlite import metadata

    found = {name: metadata.read(Path(name)) for name in pictures}
    if as_json:
        click.echo(json.dumps([_parsed(name, text) for name, text in found.items()], indent=1))
        return
    empty = [name for name, text in found.items() if text is None]
    for name, text in found.items():
        if text is None:
            continue
        if len(found) > 1:
            click.echo(f"{name}:")
        click.echo(harmless(text, lines=True))
    if empty:
        carry = "carries" if len(empty) == 1 else "carry"
        raise SdliteError(f"{', '.join(empty)} {carry} no parameters")


def _parsed(name: str, text: str | None) -> dict[str, object]:
    from sdlite.metadata import parse

    found = None if text is None else parse(text)
    return {
        "path": name,
        "infotext": text,
        "prompt": found and found.prompt,
        "negative_prompt": found and found.negative_prompt,
        "parameters": found and dict(found.fields),
    }
