"""``sdlite grid``: a picture for every combination of settings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite.cli.drawing import DrawingOptions, draw
from sdlite.cli.edge import common
from sdlite.cli.hires import hires_options, read_hires
from sdlite.cli.options import drawing_options
from sdlite.errors import RequestError

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.types import Request, Result, Step

LOADING = (
    "threads",
    "precision",
    "max_memory",
    "max_vram",
    "memory_mode",
    "runtime",
    "device",
    "cache_limit",
)
"""Settings that every model of a grid is opened with."""
NAME = "grid.png"


@click.command(short_help="Draw a picture for every combination of settings.")
@click.argument("prompt", metavar="PROMPT")
@click.option("--x", "across", metavar="NAME=V,V,...", required=True, help="Changes across.")
@click.option("--y", "down", metavar="NAME=V,V,...", help="Changes down.")
@click.option("--z", "deep", metavar="NAME=V,V,...", help="Changes from one table to the next.")
@click.option(
    "--cells",
    metavar="FOLDER",
    help="Where the single pictures go. Default: beside the grid, NAME-cells.",
)
@drawing_options
@hires_options
@common
@click.pass_context
def grid(
    ctx: click.Context,
    /,
    prompt: str,
    across: str,
    down: str | None,
    deep: str | None,
    cells: str | None,
    **given: Any,
) -> None:
    """Draw PROMPT with every combination of values, and lay the pictures out with labels.

    NAME is a setting of sdlite generate without its dashes (steps, guidance, sampler, schedule,
    seed, size, negative, clip-skip, hires-strength ...), or prompt, model, lora:NAME, or replace:
    its first value is looked for in the prompts, and each is put in its place. Numbers may be
    ranges: 1-5, 10-50 (+20), 1-10 [4]. A value with a comma stands in double quotes.

    All pictures have the same seed. A grid that was stopped goes on where it was with the same
    command.

    \b
    Examples:
      sdlite grid "a castle" --x steps=10,20 --y "sampler=Euler a,DPM++ 2M"
      sdlite grid "a red circle" --x replace=red,green,blue --y "guidance=3-9 (+3)" -o grid.png
      sdlite grid "a castle" --x seed=1-4 --y lora:ink=0,0.5,1 --z model=first,second
    """
    from sdlite.grid.axes import cells as cells_of
    from sdlite.grid.axes import read_axis
    from sdlite.grid.draw import Kept, draw_grid
    from sdlite.types import Request as Plain

    axes = [
        read_axis(text, option)
        for option, text in (("--x", across), ("--y", down), ("--z", deep))
        if text is not None
    ]
    if deep is not None and down is None:
        raise RequestError("--z without --y: a third axis needs the second")
    hires = read_hires(given)
    options = DrawingOptions.read(given)
    chosen = options.settings
    if chosen["images"] != 1:
        raise RequestError("a grid has one picture a cell; leave --images, or use --x seed=1-4")
    target = _target(chosen["output"])
    folder = Path(cells) if cells is not None else target.with_name(f"{target.stem}-cells")
    options = replace(options, settings={**chosen, "output": str(target)})
    # What is wrong with the axes is said before a model is opened.
    cells_of(Plain(prompt, chosen["negative"], hires=hires, loras=options.loras), axes)

    def open_model(name: str) -> Pipeline:
        import sdlite

        return sdlite.load(name, **{key: chosen[key] for key in LOADING})

    def work(
        pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
    ) -> Result:
        return draw_grid(
            pipe,
            request,
            axes,
            open_model=open_model,
            kept=Kept(folder, options.metadata),
            on_step=on_step,
            cancel=cancel,
        )

    def begin_with(request: Request, _: Pipeline) -> Request:
        # A seed nobody gave is drawn by the grid, which remembers it.
        return replace(request, hires=hires, seed=chosen["seed"])

    draw(ctx, options, (prompt,), begin_with, work)


def _target(output: str | None) -> Path:
    """The grid's own file."""
    path = Path(output or ".")
    is_folder = output is None or output.endswith("/") or not path.suffix or path.is_dir()
    return path / NAME if is_folder else path
