"""``--save-state`` and ``sdlite resume``: long renders survive a crash, a reboot, a closed lid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite.cli.drawing import Change, DrawingOptions, Work, draw
from sdlite.cli.edge import common, tell
from sdlite.cli.options import Function, running_options
from sdlite.errors import RequestError
from sdlite.output import destination
from sdlite.settings import whole

if TYPE_CHECKING:
    from sdlite.edit.state import Saved
    from sdlite.pipeline import Pipeline
    from sdlite.types import Request, Result, Step

KEPT = (
    "model",
    "threads",
    "precision",
    "max_memory",
    "max_vram",
    "vae",
    "memory_mode",
    "vae_tiles",
    "runtime",
    "device",
)
"""Settings a state remembers, so that the rest is drawn as the beginning was."""
PLAN = "plan"
DEFAULT_EVERY = "5"


def saving_options(function: Function) -> Function:
    """Add ``--save-state`` and ``--save-every``; ``draw_saving`` reads them."""
    function = click.option(
        "--save-every",
        metavar="N",
        default=DEFAULT_EVERY,
        help=f"Steps between two saves. Default: {DEFAULT_EVERY}.",
    )(function)
    return click.option(
        "--save-state",
        metavar="FILE",
        help="Keep the half finished picture in FILE, for sdlite resume; gone when it is finished.",
    )(function)


def draw_saving(
    ctx: click.Context,
    options: DrawingOptions,
    prompts: tuple[str, ...],
    change: Change,
    file: str | None,
    every: str,
) -> None:
    """Draw, and keep the state in a file when there is one; the arguments are those of ``draw``.

    Raises:
        RequestError: it is there already, or there are several pictures.
    """
    if file is None:
        draw(ctx, options, prompts, change)
        return
    steps = whole(1, 1000)("--save-every", every)
    if len(prompts) * options.settings["images"] > 1:
        raise RequestError("--save-state keeps one picture; draw one at a time")
    path = Path(file)
    if path.exists() and not options.overwrite:
        raise RequestError(f"{file} exists; finish it with: sdlite resume {file}, or --overwrite")
    # Refuses what could not be written before the work begins; the suffix is not a picture's.
    destination(str(path.parent) + "/", 1)
    kept = {name: options.settings[name] for name in KEPT}
    draw(ctx, options, prompts, change, _saving(path, steps, kept))
    path.unlink(missing_ok=True)


def _saving(path: Path, every: int, kept: dict[str, Any], saved: Saved | None = None) -> Work:
    def work(
        pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
    ) -> Result:
        from sdlite.edit.state import check_model, plan_words, save_state
        from sdlite.request import complete

        full = complete(request, pipe.package.manifest)
        texts = {name: str(value) for name, value in kept.items() if value is not None}
        texts[PLAN] = plan_words(pipe.plan(full))
        if saved is not None:
            check_model(saved, pipe.package)
            before = saved.header.settings.get(PLAN)
            if before != texts[PLAN]:
                tell(
                    f"note: the picture was begun with {before} and goes on with {texts[PLAN]}: "
                    "its last bits may differ"
                )

        def save(step: Step) -> None:
            on_step(step)
            if (step.index + 1) % every == 0 and step.index + 1 < step.total:
                save_state(path, pipe.package, full, step.state, texts)

        resume = None if saved is None else saved.state
        return pipe.generate(full, resume=resume, on_step=save, cancel=cancel)

    return work


@click.command(short_help="Finish a picture that --save-state kept.")
@click.argument("file", metavar="FILE")
@click.option(
    "--save-every",
    metavar="N",
    default=DEFAULT_EVERY,
    help=f"Steps between two saves. Default: {DEFAULT_EVERY}.",
)
@running_options
@common
@click.pass_context
def resume(ctx: click.Context, /, file: str, save_every: str, **given: Any) -> None:
    """Go on with the picture in FILE where it was saved last.

    On the same engine with the same number of threads it is the picture that would have been, to
    the bit. Model and engine are those it was begun with unless options say otherwise; FILE goes
    on being written to, and is removed when the picture is finished.

    \b
    Examples:
      sdlite generate "a castle" --steps 200 --save-state castle.state -o castle.png
      sdlite resume castle.state -o castle.png
    """
    from sdlite.edit.state import load_state

    steps = whole(1, 1000)("--save-every", save_every)
    saved = load_state(Path(file))
    for name in KEPT:
        if given[name] is None:
            given[name] = saved.header.settings.get(name)
    options = DrawingOptions.of_one(given)
    kept = {name: options.settings[name] for name in KEPT}
    work = _saving(Path(file), steps, kept, saved)
    draw(ctx, options, ("",), lambda _, __: saved.request, work)
    Path(file).unlink(missing_ok=True)
