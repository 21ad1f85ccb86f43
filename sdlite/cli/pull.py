"""``sdlite pull``: the only command that downloads."""

from __future__ import annotations

import click


@click.command(short_help="Download.")
def pull() -> None:
    """Download."""
