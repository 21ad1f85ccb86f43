"""``sdlite edit``: a picture and words to another picture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite.cli.drawing import DrawingOptions, Work, draw
from sdlite.cli.edge import common
from sdlite.cli.options import Function, drawing_options
from sdlite.cli.state import draw_saving, saving_options
from sdlite.errors import RequestError
from sdlite.settings import real, whole

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.types import Edit, Request, Result, Step

ALPHA = "alpha"
"""Instead of a mask's file: the transparent part of the picture."""

_EDITING = (
    click.option(
        "--strength",
        metavar="S",
        help="How much to draw anew, 0 to 1. Default: 0.75.",
    ),
    click.option(
        "--mask",
        metavar="FILE|alpha",
        help="Where to paint: white, or the opaque part of FILE; alpha is where IMAGE is "
        "transparent.",
    ),
    click.option("--invert-mask", is_flag=True, help="Paint where the mask says to stay."),
    click.option(
        "--soft-mask", is_flag=True, help="Take grey in the mask as a share of the new picture."
    ),
    click.option(
        "--mask-blur",
        metavar="PIXELS",
        help="Softness of the mask's edge, 0 to 256. Default: 4.",
    ),
    click.option(
        "--mask-content",
        metavar="NAME",
        help="What painting begins with: original (the default), fill (colours around), noise or "
        "nothing.",
    ),
    click.option(
        "--only-masked",
        is_flag=True,
        help="Work on the masked part alone, enlarged to --size, and paste it back.",
    ),
    click.option(
        "--padding",
        metavar="PIXELS",
        help="Surroundings --only-masked takes with it. Default: 32.",
    ),
    click.option(
        "--resize",
        metavar="NAME",
        help="With --size: stretch (the default), crop, or fill (edges drawn out).",
    ),
    click.option(
        "--paste/--no-paste",
        default=True,
        help="Outside mask and blur keep every byte (the default), or take the model's picture.",
    ),
    click.option(
        "--rules",
        metavar="NAME",
        help="Whose rules strength follows: a1111 (the default) or diffusers.",
    ),
    click.option(
        "--image-guidance",
        metavar="SCALE",
        help="For instruct-pix2pix: how closely to follow IMAGE, 0 to 100. Default: 1.5.",
    ),
    click.option(
        "--noise-level",
        metavar="N",
        help="For upscalers: how much noise IMAGE is shown with, 0 to the model's most, usually "
        "350; more lets it invent more. Default: the model's own, usually 20.",
    ),
)
NAMES = (
    "strength",
    "mask",
    "invert_mask",
    "soft_mask",
    "mask_blur",
    "mask_content",
    "only_masked",
    "padding",
    "resize",
    "paste",
    "rules",
    "image_guidance",
    "noise_level",
)


def editing_options(function: Function) -> Function:
    """Add the options of an edit; ``read_edit`` reads them."""
    for option in reversed(_EDITING):
        function = option(function)
    return function


def read_edit(image: str, given: dict[str, Any]) -> Edit:
    """An edit from a picture's path and the options, which are taken out of ``given``.

    Raises:
        RequestError: a file cannot be read, or a value is not allowed.
    """
    from sdlite.image.source import open_picture
    from sdlite.types import Edit

    chosen = {name: given.pop(name) for name in NAMES}
    mask = chosen.pop("mask")
    parsed: dict[str, Any] = {
        name: value for name, value in chosen.items() if value is not None and value != ""
    }
    for name, parse in (
        ("strength", real(0, 1)),
        ("mask_blur", real(0, 256)),
        ("padding", whole(0, 4096)),
        ("image_guidance", real(0, 100)),
        ("noise_level", whole(0, 999)),
    ):
        if name in parsed:
            parsed[name] = parse(f"--{name.replace('_', '-')}", parsed[name])
    if mask == ALPHA:
        parsed["alpha_mask"] = True
    elif mask is not None:
        parsed["mask"] = open_picture(Path(mask))
    elif used := [name for name in _OF_MASKS if chosen[name]]:
        raise RequestError(f"--{used[0].replace('_', '-')} is about a mask; give one with --mask")
    return Edit(open_picture(Path(image)), **parsed)


_OF_MASKS = ("invert_mask", "soft_mask", "mask_blur", "mask_content", "only_masked", "padding")


@click.command(short_help="Change a picture with words, all of it or where a mask says.")
@click.argument("image", metavar="IMAGE")
@click.argument("prompt", metavar="PROMPT")
@editing_options
@click.option(
    "--enlarge",
    metavar="SCALE",
    help="Enlarge IMAGE first, and draw it anew in tiles of --size; --strength 0.2 to 0.35.",
)
@click.option(
    "--upscaler", metavar="NAME", help="For --enlarge: a network, or Lanczos (the default)."
)
@click.option(
    "--overlap", metavar="PIXELS", help="For --enlarge: what tiles share. Default: 64, or less."
)
@drawing_options
@saving_options
@common
@click.pass_context
def edit(
    ctx: click.Context,
    /,
    image: str,
    prompt: str,
    enlarge: str | None,
    upscaler: str | None,
    overlap: str | None,
    save_state: str | None,
    save_every: str,
    **given: Any,
) -> None:
    """Draw IMAGE anew as PROMPT says: all of it, or with --mask a part.

    IMAGE may be any picture file; the new one has its size unless --size says otherwise. Outside
    the mask and its blur every byte stays as it was. A model that is an upscaler (Stable Diffusion
    x4 upscaler) makes it four times as wide and high.

    \b
    Examples:
      sdlite edit photo.jpg "an oil painting" --strength 0.5 -o painting.png
      sdlite edit street.png "a red car" --mask mask.png --mask-content fill
      sdlite edit group.png "a smiling face" --mask face.png --only-masked --size 512x512
      sdlite edit cut-out.png "a meadow" --mask alpha --strength 1
      sdlite edit small.png "a castle" --enlarge 2 --strength 0.3 -o large.png
      sdlite edit small.png "a white cat" --model stable-diffusion-x4-upscaler --noise-level 20
    """
    change = read_edit(image, given)
    if enlarge is None and (upscaler is not None or overlap is not None):
        raise RequestError("--upscaler and --overlap are about --enlarge; say how much")

    def begin_with(request: Request, _: Pipeline) -> Request:
        return replace(request, edit=change)

    options = DrawingOptions.read(given)
    if enlarge is not None:
        if save_state is not None:
            raise RequestError("--save-state keeps one run, --enlarge makes one for each tile")
        work = _enlarging(real(1, 8)("--enlarge", enlarge), upscaler or "Lanczos", overlap)
        draw(ctx, options, (prompt,), begin_with, work)
        return
    if given["size"] is None and not change.only_masked:
        # A size for new pictures, from the settings, is not the size of this one.
        options = replace(options, settings={**options.settings, "size": None})
    draw_saving(ctx, options, (prompt,), begin_with, save_state, save_every)


def _enlarging(scale: float, upscaler: str, overlap: str | None) -> Work:
    shared = None if overlap is None else whole(0, 2048)("--overlap", overlap)

    def work(
        pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
    ) -> Result:
        from sdlite.tiled import OVERLAP, draw_larger

        defaults = pipe.package.manifest.defaults
        tile = min(request.width or defaults.width, request.height or defaults.height)
        return draw_larger(
            pipe,
            request,
            scale=scale,
            upscaler=upscaler,
            overlap=min(OVERLAP, tile // 4) if shared is None else shared,
            on_step=on_step,
            cancel=cancel,
        )

    return work
