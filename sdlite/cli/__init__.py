"""The command ``sdlite``; together with the server the only part that prints and exits."""

from __future__ import annotations

import click

from sdlite import __version__
from sdlite.cli.again import again
from sdlite.cli.bake import bake
from sdlite.cli.cache import cache
from sdlite.cli.completion import completion
from sdlite.cli.config import config
from sdlite.cli.devices import devices
from sdlite.cli.doctor import doctor
from sdlite.cli.edge import Program, common
from sdlite.cli.edit import edit
from sdlite.cli.export import export
from sdlite.cli.generate import generate
from sdlite.cli.grid import grid
from sdlite.cli.info import info
from sdlite.cli.inspect import inspect
from sdlite.cli.mcp import mcp
from sdlite.cli.merge import merge
from sdlite.cli.models import models
from sdlite.cli.outpaint import outpaint
from sdlite.cli.plan import plan
from sdlite.cli.pull import pull
from sdlite.cli.serve import serve
from sdlite.cli.state import resume
from sdlite.cli.tune import tune
from sdlite.cli.upscale import upscale

__all__ = ["main"]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="sdlite")
@common
def main() -> None:
    """Draw pictures from words with Stable Diffusion, on ordinary computers.

    \b
    Start here:
      sdlite generate "a red circle on a blue background" -o circle.png
      sdlite export model.safetensors DEST     make a package of a checkpoint
      sdlite models                            what is on this machine

    Every option of generate can also be set by a variable (SDLITE_STEPS=30) or once and for all
    (sdlite config steps 30). SDLITE_HOME moves models, caches and settings to another folder.

    \b
    Exit codes: 0 done, 1 failed, 2 the request cannot be carried out as written,
    130 stopped by Ctrl-C.
    """


COMMANDS = (
    generate,
    edit,
    outpaint,
    again,
    resume,
    upscale,
    grid,
    export,
    bake,
    merge,
    inspect,
    pull,
    serve,
    mcp,
    models,
    plan,
    tune,
    devices,
    doctor,
    cache,
    config,
    info,
    completion,
)

for command in COMMANDS:
    main.add_command(command)
