"""``sdlite generate``: from prompts to files."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from sdlite.cli.drawing import DrawingOptions
from sdlite.cli.edge import common, tell
from sdlite.cli.hires import hires_options, read_hires
from sdlite.cli.options import drawing_options
from sdlite.cli.state import draw_saving, saving_options
from sdlite.errors import RequestError

if TYPE_CHECKING:
    from sdlite.pipeline import Pipeline
    from sdlite.types import Request


@click.command(short_help="Draw pictures from prompts.")
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--prompts-file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Read more prompts from FILE, one a line, UTF-8; - is standard input.",
)
@drawing_options
@hires_options
@saving_options
@common
@click.pass_context
def generate(
    ctx: click.Context,
    /,
    prompts: tuple[str, ...],
    prompts_file: str | None,
    save_state: str | None,
    save_every: str,
    **given: Any,
) -> None:
    """Draw a picture of each PROMPT; - reads prompts from standard input, one a line.

    Prints the path of each picture. Without options it is the model that ships, shapes, and that
    model's own size, steps, guidance and sampler. Ctrl-C stops after the current step and keeps
    finished pictures; a second one stops at once.

    \b
    Examples:
      sdlite generate "a large yellow star on a purple background"
      sdlite generate "a red circle" -o circle.png --seed 7 --steps 30
      sdlite generate -n 4 --model my-model --size 512x768 "a castle" -o castles/
      sdlite generate --max-memory 1G --model my-model "a castle"
      sdlite generate --prompts-file prompts.txt -o out/ --json
      sdlite generate "a castle" --hires 2 --hires-strength 0.5 --hires-upscaler Lanczos
    """
    hires = read_hires(given)
    options = DrawingOptions.read(given)
    jobs = collect_prompts(prompts, prompts_file, options.quiet)

    def begin_with(request: Request, _: Pipeline) -> Request:
        return replace(request, hires=hires)

    draw_saving(ctx, options, jobs, begin_with, save_state, save_every)


def collect_prompts(
    prompts: tuple[str, ...], file: str | None, quiet: bool = False
) -> tuple[str, ...]:
    """Prompts from the command line, files and standard input, in that order.

    Unless ``quiet``, words that look like one prompt without its quotes are told.

    Raises:
        RequestError: there is none, or a file cannot be read.
    """
    found: list[str] = []
    for prompt in prompts:
        if prompt == "-":
            found.extend(read_prompts("-"))
        else:
            found.append(prompt)
    if file is not None:
        found.extend(read_prompts(file))
    if not prompts and file is None:
        raise RequestError('no prompt; try: sdlite generate "a red circle on a blue background"')
    if not found:
        raise RequestError(f"there is no prompt in {file or 'standard input'}")
    if not quiet and len(prompts) > 2 and all(len(prompt.split()) == 1 for prompt in prompts):
        tell(f"note: {len(prompts)} prompts of one word each; quotes keep a prompt together")
    return tuple(found)


def read_prompts(name: str) -> list[str]:
    """Lines that are not blank of a file, or of standard input for ``-``."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as stream:  # noqa: PTH123 - the name is the user's, kept as it is
                data = stream.read()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"cannot read prompts from {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"prompts in {name} are not UTF-8: {error.reason}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
