"""Options of a second, larger pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from sdlite.cli.options import Function
from sdlite.errors import RequestError
from sdlite.settings import real, size, whole

if TYPE_CHECKING:
    from sdlite.types import Hires


def _upscalers(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    from sdlite.edit.upscale import UPSCALERS
    from sdlite.upscalers.files import installed

    names = [*UPSCALERS, *(file.name for file in installed())]
    return [CompletionItem(name) for name in names if name.lower().startswith(begun.lower())]


_HIRES = (
    click.option(
        "--hires",
        metavar="SCALE|WxH",
        help="Draw a second time, larger: 2 is twice as wide and high.",
    ),
    click.option(
        "--hires-upscaler",
        metavar="NAME",
        shell_complete=_upscalers,
        help='In between: "Latent" (the default) and its kinds, Lanczos, Bilinear, Nearest, or an '
        "exported upscaler.",
    ),
    click.option("--hires-strength", metavar="S", help="How much is drawn anew. Default: 0.7."),
    click.option("--hires-steps", metavar="N", help="Steps. Default: as many as the first pass."),
    click.option("--hires-prompt", metavar="TEXT", help="Another prompt."),
    click.option("--hires-negative", metavar="TEXT", help="Another negative prompt."),
    click.option("--hires-sampler", metavar="NAME", help="Another sampler."),
    click.option("--hires-schedule", metavar="NAME", help="Another schedule."),
    click.option("--hires-guidance", metavar="SCALE", help="Another guidance scale."),
)


def hires_options(function: Function) -> Function:
    """Add the options of a second pass; ``read_hires`` reads them."""
    for option in reversed(_HIRES):
        function = option(function)
    return function


def read_hires(given: dict[str, Any]) -> Hires | None:
    """The second pass the options ask for, which are taken out of ``given``; None without one.

    Raises:
        RequestError: a value is not allowed, or there are settings but no ``--hires``.
    """
    from sdlite.types import Hires

    names = ("upscaler", "strength", "steps", "prompt", "negative", "sampler", "schedule")
    found = {name: given.pop(f"hires_{name}") for name in (*names, "guidance")}
    chosen: dict[str, Any] = {name: text for name, text in found.items() if text is not None}
    scale = given.pop("hires")
    if scale is None:
        if chosen:
            raise RequestError(f"--hires-{next(iter(chosen))} needs --hires; say how large")
        return None
    for name, parse in (
        ("strength", real(0, 1)),
        ("steps", whole(1, 1000)),
        ("guidance", real(0, 100)),
    ):
        if name in chosen:
            chosen[name] = parse(f"--hires-{name}", chosen[name])
    if "negative" in chosen:
        chosen["negative_prompt"] = chosen.pop("negative")
    if "x" in scale.lower():
        chosen["width"], chosen["height"] = size("--hires", scale)
    else:
        chosen["scale"] = real(1, 8)("--hires", scale)
    return Hires(**chosen)
