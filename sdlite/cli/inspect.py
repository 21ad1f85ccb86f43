"""``sdlite inspect``: what a checkpoint or a package is."""

from __future__ import annotations

import click

from sdlite.cli.edge import common


@click.command(short_help="Describe a package or a checkpoint.")
@click.argument("path", metavar="PATH|NAME")
@click.option("--verify", is_flag=True, help="Check the size and the hash of every file.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
@common
def inspect(path: str, verify: bool, as_json: bool) -> None:
    """Print family, components, precision, sizes, hashes, licence and parity.

    PATH is a package, a diffusers folder or a checkpoint file; NAME is a model of yours. Nothing is
    executed or changed.

    \b
    Examples:
      sdlite inspect shapes --verify
      sdlite inspect dream.safetensors
    """
