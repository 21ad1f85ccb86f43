"""Fill a request's open fields from the package and refuse what cannot be drawn."""

from __future__ import annotations

import math
import secrets
from dataclasses import replace

from sdlite.choices import find_emphasis, find_rng
from sdlite.edit.request import MAX_STEPS, complete_edit, complete_hires, stages_of
from sdlite.errors import RequestError
from sdlite.manifest import Manifest
from sdlite.sampling import resolve
from sdlite.types import Request

MAX_SIDE = 4096
MAX_IMAGES = 64
MAX_SEED = 2**64 - 1
MAX_CLIP_SKIP = 12
"""A1111's most; which layers there are depends on the model."""
MAX_PROMPT_CHARACTERS = 1_000_000


def complete(request: Request, manifest: Manifest) -> Request:
    """The request with every default filled in and every name in A1111's spelling.

    Raises:
        RequestError: a value cannot be used; the message says what is allowed.
        UnknownName: a sampler, schedule or generator that does not exist.
    """
    request = complete_edit(request, manifest)
    for name in ("width", "height", "steps", "seed", "images", "clip_skip"):
        value = getattr(request, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise RequestError(f"{name} {value!r} is not a whole number")
    defaults = manifest.defaults
    factor = manifest.latent.factor
    width = _side("width", request.width, defaults.width, factor)
    height = _side("height", request.height, defaults.height, factor)
    steps = defaults.steps if request.steps is None else request.steps
    if not 1 <= steps <= MAX_STEPS:
        raise RequestError(f"steps {steps} is not between 1 and {MAX_STEPS}")
    guidance = defaults.guidance if request.guidance is None else request.guidance
    if not math.isfinite(guidance) or not 0 <= guidance <= 100:
        raise RequestError(f"guidance {guidance} is not between 0 and 100; 5 to 9 is usual")
    if not 1 <= request.images <= MAX_IMAGES:
        raise RequestError(f"images {request.images} is not between 1 and {MAX_IMAGES}")
    if not -1 <= request.seed <= MAX_SEED:
        raise RequestError(
            f"seed {request.seed} is not between 0 and {MAX_SEED}; -1 draws a random one"
        )
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if not isinstance(text, str):
            raise RequestError(f"{name} {text!r} is no text")
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise RequestError(
                f"{name} has {len(text)} characters, at most {MAX_PROMPT_CHARACTERS} are read"
            )
    if not 1 <= request.clip_skip <= MAX_CLIP_SKIP:
        raise RequestError(
            f"clip skip {request.clip_skip} is not between 1, which skips nothing, and "
            f"{MAX_CLIP_SKIP}"
        )
    rescale = request.guidance_rescale
    rescale = defaults.guidance_rescale if rescale is None else rescale
    if not 0.0 <= rescale <= 1.0:
        raise RequestError(f"guidance rescale {rescale} is not between 0 and 1; 0.7 is usual")
    if request.guidance_interval is not None:
        low, high = request.guidance_interval
        if not 0.0 <= low <= high:
            raise RequestError(
                f"guidance interval {low} to {high} does not go from a low sigma to a high one, "
                "e.g. 0.3 to 5.4"
            )
    sampler_name = defaults.sampler if request.sampler is None else request.sampler
    schedule_name = request.schedule
    if schedule_name is None and request.sampler is None:
        schedule_name = defaults.schedule
    sampler, schedule = resolve(sampler_name, schedule_name)
    full = replace(
        request,
        prompt=_clean(request.prompt),
        negative_prompt=_clean(request.negative_prompt),
        width=width,
        height=height,
        steps=steps,
        guidance=float(guidance),
        seed=draw_seed() if request.seed == -1 else request.seed,
        sampler=sampler.name,
        schedule=schedule.label,
        rng=find_rng(request.rng),
        emphasis=find_emphasis(request.emphasis),
        guidance_rescale=rescale,
    )
    full = complete_hires(full, factor)
    for stage in stages_of(full)[1:]:
        complete(stage.request, manifest)
    return full


def _clean(text: str) -> str:
    """Bytes of a command line that are no UTF-8 arrive as lone surrogates: nothing reads those."""
    return text.encode("utf-8", "replace").decode("utf-8")


def draw_seed() -> int:
    """A random seed; from 0 to 2**32 - 2 as A1111 draws them, so that every tool takes it."""
    return secrets.randbelow(2**32 - 1)


def seeds_of(request: Request) -> tuple[int, ...]:
    """The seed of each image of a completed request: ``seed + i``, wrapping at 2**64."""
    return tuple((request.seed + index) % (MAX_SEED + 1) for index in range(request.images))


def _side(name: str, value: int | None, default: int, factor: int) -> int:
    side = default if value is None else value
    if not factor <= side <= MAX_SIDE:
        raise RequestError(f"{name} {side} is not between {factor} and {MAX_SIDE} pixels")
    if side % factor:
        low = side - side % factor
        near = f"{low} or {low + factor}" if low + factor <= MAX_SIDE else str(low)
        raise RequestError(f"{name} {side} is not a multiple of {factor}; try {near}")
    return side
