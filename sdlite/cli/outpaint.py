"""``sdlite outpaint``: a larger picture around a picture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from sdlite.cli.drawing import DrawingOptions, draw
from sdlite.cli.edge import common
from sdlite.cli.options import Function, drawing_options
from sdlite.settings import real, whole

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.types import Request, Result, Step

SIDES = ("left", "top", "right", "bottom")
MOST = 4096


def _sides(function: Function) -> Function:
    for side in reversed(SIDES):
        function = click.option(
            f"--{side}", metavar="PIXELS", default="0", help=f"Pixels to add: {side}."
        )(function)
    return function


@click.command(short_help="Continue a picture beyond its edges.")
@click.argument("image", metavar="IMAGE")
@click.argument("prompt", metavar="[PROMPT]", default="")
@_sides
@click.option(
    "--seam",
    metavar="PIXELS",
    default="16",
    help="How far into IMAGE it may change, so that no seam shows. Default: 16.",
)
@click.option(
    "--strength", metavar="S", default="1", help="How much is drawn anew, 0 to 1. Default: 1."
)
@click.option(
    "--mask-content",
    metavar="NAME",
    default="original",
    help="What painting begins with: original (the edge drawn out, the default), fill, noise or "
    "nothing.",
)
@drawing_options
@common
@click.pass_context
def outpaint(
    ctx: click.Context,
    /,
    image: str,
    prompt: str,
    seam: str,
    strength: str,
    mask_content: str,
    **given: Any,
) -> None:
    """Paint what would be around IMAGE; PROMPT says what is there.

    Works in windows of the model's own size, or of --size: each paints a strip of at most a
    quarter of it and sees the rest, so large additions take several. But for --seam pixels along
    the old edges, IMAGE keeps every byte.

    \b
    Examples:
      sdlite outpaint photo.jpg "a meadow" --left 128 --right 128 -o wide.png
      sdlite outpaint square.png "blue sky" --top 256 --seed 7 -o tall.png
    """
    from sdlite.image.source import open_picture
    from sdlite.outpaint import Margins
    from sdlite.outpaint import outpaint as paint
    from sdlite.types import Edit

    margins = Margins(**{side: whole(0, MOST)(f"--{side}", given.pop(side)) for side in SIDES})
    width = whole(0, MOST)("--seam", seam)
    edit = Edit(
        open_picture(image), strength=real(0, 1)("--strength", strength), mask_content=mask_content
    )
    margins.check(edit.image.size)

    def work(
        pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
    ) -> Result:
        return paint(pipe, request, margins, seam=width, on_step=on_step, cancel=cancel)

    def begin_with(request: Request, _: Pipeline) -> Request:
        return replace(request, edit=edit)

    draw(ctx, DrawingOptions.read(given), (prompt,), begin_with, work)
