"""``--save-state`` and ``sdlite resume``: long renders survive a crash, a reboot, a closed lid."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
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
ADAPTERS = "adapters"
"""Hashes of LoRAs and embeddings."""
STEP = "{step}"
"""In the name of a state: the number of its step."""
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
        help="Keep the half finished picture in FILE, for sdlite resume; gone when it is finished. "
        "With {step} in its name every save is a file of its own, and stays.",
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
    if STEP not in file and path.exists() and not options.overwrite:
        raise RequestError(f"{file} exists; finish it with: sdlite resume {file}, or --overwrite")
    # Refuses what could not be written before the work begins; the suffix is not a picture's.
    destination(str(path.parent) + "/", 1)
    kept = {name: options.settings[name] for name in KEPT}
    draw(ctx, options, prompts, change, _saving(path, steps, kept))
    if STEP not in file:
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
        texts[ADAPTERS] = ", ".join(pipe.hashes(full).values())
        if saved is not None:
            check_model(saved, pipe.package)
            before = saved.header.settings.get(PLAN)
            if before != texts[PLAN]:
                tell(
                    f"note: the picture was begun with {before} and goes on with {texts[PLAN]}: "
                    "its last bits may differ"
                )
            used = saved.header.settings.get(ADAPTERS)
            if used != texts[ADAPTERS]:
                tell(
                    f"note: the picture was begun with {used or 'no LoRA'} and goes on with "
                    f"{texts[ADAPTERS] or 'none'}: it will be another one"
                )

        def save(step: Step) -> None:
            on_step(step)
            if (step.index + 1) % every == 0 and step.index + 1 < step.total:
                place = path.with_name(path.name.replace(STEP, str(step.index + 1)))
                save_state(place, pipe.package, full, step.state, texts)

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
@click.option(
    "--change",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    help="Go on in another way: prompt, negative, guidance, steps (of the whole picture) ... FILE "
    "stays. Again and again.",
)
@running_options
@common
@click.pass_context
def resume(
    ctx: click.Context, /, file: str, save_every: str, changes: tuple[str, ...], **given: Any
) -> None:
    """Go on with the picture in FILE where it was saved last.

    On the same engine with the same number of threads it is the picture that would have been, to
    the bit. Model and engine are those it was begun with unless options say otherwise; FILE goes
    on being written to, and is removed when the picture is finished. With --change it branches:
    what was drawn so far stays, the rest is another picture, and FILE is left alone.

    \b
    Examples:
      sdlite generate "a castle" --steps 200 --save-state castle.state -o castle.png
      sdlite resume castle.state -o castle.png
      sdlite generate "a castle" --save-state "castle-{step}.state" -o castle.png
      sdlite resume castle-10.state --change "prompt=a ruin" -o ruin.png
      sdlite resume castle-10.state --change steps=60 -o finer.png
    """
    from sdlite.changes import read_changes
    from sdlite.edit.state import load_state

    wanted = read_changes(changes)

    steps = whole(1, 1000)("--save-every", save_every)
    saved = load_state(Path(file))
    options = options_of(saved, given)
    kept = {name: options.settings[name] for name in KEPT}
    if wanted:
        draw(ctx, options, ("",), lambda _, __: saved.request, branching(saved, wanted))
        return
    work = _saving(Path(file), steps, kept, saved)
    draw(ctx, options, ("",), lambda _, __: saved.request, work)
    Path(file).unlink(missing_ok=True)


def options_of(saved: Saved, given: dict[str, Any]) -> DrawingOptions:
    """Options to go on from a state with; what was not given is as when it was begun."""
    for name in KEPT:
        if given[name] is None:
            given[name] = saved.header.settings.get(name)
    return DrawingOptions.of_one(given)


def branching(saved: Saved, changes: dict[str, Any]) -> Work:
    """Go on from a state in another way, without a profile's shortcuts; the state stays."""

    def work(
        pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
    ) -> Result:
        from sdlite.edit.branch import BRANCHED, branch
        from sdlite.edit.state import check_model

        check_model(saved, pipe.package)
        job, state = branch(request, saved.state, changes, pipe.package.manifest)
        result = pipe.generate(job, resume=state, on_step=on_step, cancel=cancel)
        where = f"begun as another picture, which is left after step {state.index}"
        told = f", {BRANCHED}: {state.index} ({saved.request.profile})"
        return replace(
            result,
            notes=(*result.notes, where),
            infotexts=tuple(text + told for text in result.infotexts),
        )

    return work
