"""``sdlite generate``: from prompts to files."""

from __future__ import annotations

import json
import sys

import click

from sdlite.choices import MEMORY_MODES, PRECISIONS, RNGS
from sdlite.cli import drawing
from sdlite.cli.edge import INTERRUPTED, common, tell
from sdlite.cli.interrupt import Job
from sdlite.cli.options import (
    load_settings,
    model_names,
    sampler_names,
    schedule_names,
    setting,
)
from sdlite.cli.progress import wanted
from sdlite.errors import RequestError
from sdlite.output import FORMATS, destination


@click.command(short_help="Draw pictures from prompts.")
@click.argument("prompts", metavar="PROMPT...", nargs=-1)
@click.option(
    "--prompts-file",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Read more prompts from FILE, one a line, UTF-8; - is standard input.",
)
@setting(
    "model",
    "-m",
    metavar="NAME|PATH",
    complete=model_names,
    help="Which model; see sdlite models. Default: shapes.",
)
@setting(
    "output",
    "-o",
    metavar="FILE|FOLDER",
    help="Where to write. Several pictures are numbered; a folder gets sdlite-0001.png and so on. "
    "Default: the current folder.",
)
@setting(
    "images", "-n", metavar="N", help="Pictures per prompt, with seeds counting up. Default: 1."
)
@setting("negative", metavar="TEXT", help="What to steer away from.")
@setting("steps", "-s", metavar="N", help="Steps, 1 to 1000; 20 is usual.")
@setting("size", metavar="WxH", help="Pixels, multiples of 8, at most 4096.")
@setting(
    "guidance",
    "-g",
    metavar="SCALE",
    help="How closely to follow the prompt, 0 to 100; 5 to 9 is usual, 1 turns it off.",
)
@setting(
    "seed", metavar="N", help="Same seed, same picture. 0 to 2**64-1; -1, the default, draws one."
)
@setting(
    "sampler",
    metavar="NAME",
    complete=sampler_names,
    help='E.g. "Euler a", "DPM++ 2M", "DDIM"; any usual spelling.',
)
@setting(
    "schedule",
    metavar="NAME",
    complete=schedule_names,
    help="E.g. Karras, Exponential, Normal; any usual spelling.",
)
@setting(
    "rng",
    metavar="NAME",
    complete=lambda: list(RNGS),
    help="Whose seeds these are: cpu (torch, the default), nv (A1111 on NVIDIA), numpy.",
)
@setting("threads", "-t", metavar="N", help="Compute threads. Default: one a physical core.")
@setting(
    "precision",
    metavar="NAME",
    complete=lambda: list(PRECISIONS),
    help="fp32 or fp16: refuse a model that holds the other.",
)
@setting("max-memory", metavar="BYTES", help="Most main memory to take, e.g. 1.5G or 900M.")
@setting(
    "memory-mode",
    metavar="MODE",
    complete=lambda: list(MEMORY_MODES),
    help="auto, normal (fastest) or mapped (weights stay in their file).",
)
@setting("runtime", metavar="NAME", help="Engine. Default: the first that can be used.")
@setting("device", metavar="NAME", help="Device of the engine.")
@setting(
    "format",
    "-f",
    metavar="NAME",
    complete=lambda: list(FORMATS),
    help="png, jpg or webp. Default: what the file's name says, else png.",
)
@click.option(
    "--metadata/--no-metadata",
    default=None,
    help="Write prompt, seed and settings into the picture, as A1111 does. Default: yes.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace files that exist; without it they are never touched."
)
@click.option(
    "--preview/--no-preview",
    default=None,
    help="Show the growing picture: in the terminal where it can, else as NAME.preview.png.",
)
@click.option(
    "--progress/--no-progress", default=None, help="Show a progress bar. Default: in a terminal."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the paths.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object: paths, seeds, timings, memory, plan.",
)
@common
@click.pass_context
def generate(
    ctx: click.Context,
    /,
    prompts: tuple[str, ...],
    prompts_file: str | None,
    metadata: bool | None,
    overwrite: bool,
    preview: bool | None,
    progress: bool | None,
    quiet: bool,
    as_json: bool,
    **given: str | None,
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
    """
    values = load_settings()
    chosen = {name: values.get(name, text).value for name, text in given.items()}
    jobs = collect_prompts(prompts, prompts_file, quiet)
    job = drawing.Drawing(
        prompts=jobs,
        settings=chosen,
        target=destination(
            chosen["output"], len(jobs) * chosen["images"], chosen["format"], overwrite
        ),
        metadata=values.get("metadata").value if metadata is None else metadata,
        preview=values.get("preview").value if preview is None else preview,
        progress=wanted(False if quiet else progress),
        quiet=quiet,
        report=None if as_json else drawing.Lines(quiet),
    )
    try:
        Job(job.draw).run()
    finally:
        if as_json:
            click.echo(json.dumps(job.summary(sys.exc_info()[1]), indent=1))
    if job.cancelled:
        tell(f"stopped; {len(job.pictures)} of {job.total} pictures were finished and kept")
        ctx.exit(INTERRUPTED)
    if not as_json and not quiet:
        job.closing_line()


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
