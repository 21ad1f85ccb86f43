"""``sdlite completion``: scripts that make the shell complete commands, options and names."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import get_completion_class

from sdlite.cli.edge import common
from sdlite.errors import UnknownName

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a completion script for your shell.")
@click.argument("shell", required=False, metavar="[bash|zsh|fish]")
@common
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print a script that completes commands, options, models, samplers and schedules.

    \b
    Put one of these into your shell's start file:
      eval "$(sdlite completion bash)"          ~/.bashrc
      eval "$(sdlite completion zsh)"           ~/.zshrc
      sdlite completion fish | source           ~/.config/fish/config.fish
    """
    name = shell or PurePath(os.environ.get("SHELL", "bash")).name
    kind = get_completion_class(name) if name in SHELLS else None
    if kind is None:
        raise UnknownName("shell", name, SHELLS)
    maker = kind(ctx.find_root().command, {}, "sdlite", "_SDLITE_COMPLETE")
    click.echo(maker.source_template % maker.source_vars())
