"""``sdlite again``: repeat a picture from the parameters it carries."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlite import __version__
from sdlite.cli.drawing import DrawingOptions, draw, generate_one
from sdlite.cli.edge import common
from sdlite.cli.options import model_names, running_options
from sdlite.cli.state import branching, options_of
from sdlite.errors import RequestError

if TYPE_CHECKING:
    from sdlite.edit.again import Again
    from sdlite.edit.state import Saved
    from sdlite.metadata import Parameters
    from sdlite.pipeline import Pipeline
    from sdlite.types import Edit, Request, Result, Step


@click.command(short_help="Repeat a picture from the parameters it carries.")
@click.argument("picture", metavar="PICTURE")
@click.option(
    "--change",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change something: prompt, negative, steps, size, seed, sampler, strength ... Again and "
    "again.",
)
@click.option("--image", metavar="FILE", help="For an edit: the picture it was made from.")
@click.option("--mask", metavar="FILE", help="For an edit with a mask: that mask.")
@click.option(
    "--continue",
    "state",
    metavar="FILE",
    help="Go on from FILE, which --save-state kept while PICTURE was drawn, instead of from noise: "
    "with more steps, a second pass, and without a profile's shortcuts.",
)
@running_options
@common
@click.pass_context
def again(
    ctx: click.Context,
    /,
    picture: str,
    changes: tuple[str, ...],
    image: str | None,
    mask: str | None,
    state: str | None,
    **given: Any,
) -> None:
    """Draw PICTURE again, with --change something else.

    Reads what sdlite, A1111, stable-diffusion.cpp, ComfyUI, InvokeAI and programs that use
    diffusers put into PNG, JPEG and WebP files, takes the model of that name if it is there, and
    says what cannot be repeated, and why.

    \b
    Examples:
      sdlite again castle.png --change steps=50 -o better.png
      sdlite again castle.png --change "prompt=a castle in winter" --change seed=-1
      sdlite again edited.png --image photo.jpg --mask mask.png -o same.png
      sdlite generate "a castle" --profile draft --save-state "draft-{step}.state" -o draft.png
      sdlite again draft.png --continue draft-5.state --change steps=40 -o castle.png
    """
    from PIL import Image

    from sdlite.carried.read import read_carried
    from sdlite.changes import read_changes
    from sdlite.repeat import repeat_runs

    carried = read_carried(Path(picture))
    found = carried.parameters
    parsed = read_changes(changes)
    if state is not None:
        if image is not None or mask is not None:
            raise RequestError("--continue has its pictures in FILE; leave --image and --mask")
        saved = _state_of(picture, found, Path(state))
        options = options_of(saved, given)
        draw(ctx, options, ("",), lambda _, __: saved.request, branching(saved, parsed))
        return
    if given["model"] is None and found.fields.get("Model") in model_names():
        given["model"] = found.fields["Model"]
    options = DrawingOptions.of_one(given)

    problems: list[str] = list(carried.problems)

    def repeated(_: Request, pipe: Pipeline) -> Request:
        request, told = _request(pipe, found, parsed, image, mask)
        problems.extend(told)
        return request

    def work(
        pipe: Pipeline, request: Request, on_step: Callable[[Step], object], cancel: threading.Event
    ) -> Result:
        runs = None
        if request.edit is not None:
            with Image.open(picture) as image:
                runs, told = repeat_runs(found, image.size, request.edit.image.size)
            problems.extend(told)
        result = (runs or generate_one)(pipe, request, on_step, cancel)
        return replace(result, notes=(*result.notes, *problems))

    draw(ctx, options, ("",), repeated, work)


def _state_of(picture: str, found: Parameters, path: Path) -> Saved:
    """A state kept while a picture was drawn; raises ``RequestError`` for another picture's."""
    from sdlite.edit.state import load_state
    from sdlite.metadata import build, parse
    from sdlite.text.tags import with_tags

    saved = load_state(path)
    request = saved.request
    prompt = with_tags(request.prompt, request.loras)
    fields = {"Steps": request.steps, "Sampler": request.sampler, "Seed": request.seed}
    kept = parse(build(prompt, "", fields))
    if (found.prompt, found.fields.get("Seed")) != (kept.prompt, kept.fields["Seed"]):
        raise RequestError(
            f"{path} was saved while another picture than {picture} was drawn: {kept.prompt!r} "
            f"with seed {request.seed}"
        )
    return saved


def _request(
    pipe: Pipeline,
    found: Parameters,
    changes: dict[str, Any],
    image: str | None,
    mask: str | None,
) -> tuple[Request, tuple[str, ...]]:
    from sdlite.changes import changed
    from sdlite.edit.again import again as read_again

    read = read_again(found, pipe.package.manifest, __version__)
    request, problems = read.request, list(read.problems)
    if read.edit is not None:
        request = replace(request, edit=_edit(read, found, image, mask, problems))
    elif image is not None or mask is not None:
        raise RequestError("this picture was not made from another one; leave --image and --mask")
    return changed(request, changes), tuple(problems)


def _edit(
    read: Again, found: Parameters, image: str | None, mask: str | None, problems: list[str]
) -> Edit:
    from sdlite.image.source import open_picture
    from sdlite.types import Edit

    if image is None:
        raise RequestError(
            "this picture was made from another one, which it does not carry; give it with --image"
        )
    settings = dict(read.edit or {})
    masked = read.masked and not settings["alpha_mask"]
    if masked and mask is None:
        raise RequestError("this picture was made with a mask; give it with --mask")
    begun = open_picture(image)
    told = found.fields.get("Init image hash")
    ours = hashlib.md5(begun.tobytes(), usedforsecurity=False).hexdigest()
    if told is None:
        problems.append("nothing says whether --image is the picture it was made from")
    elif told != ours:
        problems.append(f"{image} is not the picture it was made from, or was changed since")
    if masked:
        settings["mask"] = open_picture(str(mask))
    return Edit(begun, **settings)
