"""Refuse edits and second passes that cannot be carried out, and fill in what is left open."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from PIL import Image

from sdlite.choices import MAX_SIDE
from sdlite.edit.upscale import Upscaler, find_upscaler
from sdlite.errors import RequestError, UnknownName
from sdlite.image.canvas import RESIZES
from sdlite.image.fit import pad
from sdlite.image.source import upright
from sdlite.manifest import Manifest
from sdlite.types import Edit, Hires, Request

RULES = ("a1111", "diffusers")
"""Whose rules an edit follows."""
CONTENTS = ("original", "fill", "noise", "nothing")
"""What painting under a mask begins with."""
_CONTENT_ALIASES = {"latent noise": "noise", "latent nothing": "nothing"}
MAX_STEPS = 1000
MAX_SCALE = 8
MAX_BLUR = 256
MAX_PADDING = 4096
MOST_STRENGTH = 0.999
"""A1111 counts a strength of 1 as this."""


def complete_edit(request: Request, manifest: Manifest) -> Request:
    """A request with ``edit``: checked, its pictures upright, and its size chosen.

    Raises:
        RequestError: a value cannot be used.
        UnknownName: ``mask_content``, ``resize`` or ``rules`` is none of those there are.
    """
    edit = request.edit
    if edit is None:
        return request
    for name, picture in (("image", edit.image), ("mask", edit.mask)):
        if not isinstance(picture, Image.Image) and not (picture is None and name == "mask"):
            raise RequestError(f"{name} {picture!r} is no PIL picture")
    if request.hires is not None:
        raise RequestError(
            "a second pass (hires) is for pictures drawn from nothing, not for edits"
        )
    check_strength(edit.strength)
    if not math.isfinite(edit.image_guidance) or not 0 <= edit.image_guidance <= 100:
        raise RequestError(
            f"image guidance {edit.image_guidance} is not between 0 and 100; 1 to 2 is usual"
        )
    if not 0 <= edit.mask_blur <= MAX_BLUR:
        raise RequestError(f"mask blur {edit.mask_blur} is not between 0 and {MAX_BLUR} pixels")
    if isinstance(edit.padding, bool) or not 0 <= edit.padding <= MAX_PADDING:
        raise RequestError(f"padding {edit.padding} is not between 0 and {MAX_PADDING} pixels")
    content = _CONTENT_ALIASES.get(edit.mask_content, edit.mask_content)
    if content not in CONTENTS:
        raise UnknownName("mask content", edit.mask_content, CONTENTS)
    if edit.rules not in RULES:
        raise UnknownName("rules", edit.rules, RULES)
    if edit.resize is not None and edit.resize not in RESIZES:
        raise UnknownName("resize", edit.resize, RESIZES)
    masked = edit.mask is not None or edit.alpha_mask
    if edit.only_masked and not masked:
        raise RequestError("only masked, but there is no mask; give one")
    edit = replace(edit, noise_level=_noise_level(edit, manifest))
    if manifest.low_res is not None:
        if masked:
            raise RequestError(
                f"{manifest.name} is an upscaler and draws the whole picture; leave the mask out"
            )
        if edit.strength not in (Edit.strength, 1.0):
            raise RequestError(
                f"{manifest.name} is an upscaler and draws everything anew, so there is no "
                f"strength {edit.strength}; how far it may depart says the noise level"
            )
        edit = replace(edit, strength=1.0)
    image = upright(edit.image, "the image")
    edit = replace(
        edit,
        image=image,
        mask=None if edit.mask is None else upright(edit.mask, "the mask"),
        mask_content=content,
    )
    return _sized(replace(request, edit=edit), edit, manifest)


def _noise_level(edit: Edit, manifest: Manifest) -> int | None:
    """The noise an upscaler's small picture is shown with; None for other models."""
    level, low_res = edit.noise_level, manifest.low_res
    if low_res is None:
        if level is not None:
            raise RequestError(
                f"noise level {level}, but {manifest.name} is no upscaler; leave it out"
            )
        return None
    level = low_res.level if level is None else level
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= low_res.most:
        raise RequestError(
            f"noise level {level} is not a whole number from 0 to {low_res.most}; "
            f"{low_res.level} is usual"
        )
    return level


def _sized(request: Request, edit: Edit, manifest: Manifest) -> Request:
    """Width, height and ``resize`` filled in."""
    open_size = request.width is None and request.height is None
    if edit.only_masked:
        return replace(request, edit=replace(edit, resize="fill"))
    if manifest.low_res is not None:
        own, usual = _enlarged_size(edit.image.size, open_size, manifest), "stretch"
    else:
        own, usual = pad(edit.image.size, manifest.latent.factor).size, "pad"
    if open_size and edit.resize in (None, "pad"):
        return replace(request, width=own[0], height=own[1], edit=replace(edit, resize=usual))
    if edit.resize == "pad" and (request.width, request.height) != own:
        raise RequestError(
            f"resize pad works at the image's own {own[0]}x{own[1]}, not at another size; "
            "use stretch, crop or fill"
        )
    width, height = request.width, request.height
    # With one side given, or none, the other keeps the proportions.
    if width is None and height is None:
        width, height = own
    elif width is None or height is None:
        other = own[0] / own[1]
        side = height * other if width is None and height is not None else (width or 0) / other
        factor = manifest.latent.factor
        near = max(round(side / factor), 1) * factor
        width, height = (near, height) if width is None else (width, near)
    return replace(
        request, width=width, height=height, edit=replace(edit, resize=edit.resize or "stretch")
    )


def _enlarged_size(size: tuple[int, int], check: bool, manifest: Manifest) -> tuple[int, int]:
    """Width and height of what an upscaler makes of a picture.

    Raises ``RequestError`` where it is to be checked and would be too large.
    """
    factor = manifest.latent.factor
    width, height = (side * factor for side in size)
    if check and max(width, height) > MAX_SIDE:
        raise RequestError(
            f"{manifest.name} makes of a picture of {size[0]}x{size[1]} one of {width}x{height}; "
            f"at most {MAX_SIDE} a side are drawn, so give a picture of at most "
            f"{MAX_SIDE // factor} a side, or a smaller size for the result"
        )
    return width, height


def check_strength(strength: float) -> None:
    """Raises ``RequestError`` for what is no number from 0 to 1."""
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not math.isfinite(strength) or not 0 <= strength <= 1:
        raise RequestError(f"strength {strength} is not a number between 0 and 1")


def complete_hires(request: Request, factor: int) -> Request:
    """A completed request whose ``hires`` has its size and names filled in.

    Raises:
        RequestError: a value cannot be used.
        UnknownName: there is no such upscaler.
    """
    hires = request.hires
    if hires is None or request.width is None or request.height is None:
        return request
    check_strength(hires.strength)
    steps = request.steps if hires.steps is None else hires.steps
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise RequestError(f"hires steps {steps} is not a whole number of at least 1")
    if steps > hires.strength * MAX_STEPS:
        raise RequestError(
            f"hires strength {hires.strength} is too little for {steps} steps: the schedule would "
            f"have more than {MAX_STEPS}; 0.3 to 0.7 is usual"
        )
    if not math.isfinite(hires.scale) or not 1 <= hires.scale <= MAX_SCALE:
        raise RequestError(f"hires scale {hires.scale} is not between 1 and {MAX_SCALE}")
    upscaler = find_upscaler(hires.upscaler).name
    hires = _hires_size(request, replace(hires, steps=steps, upscaler=upscaler), factor)
    return replace(request, hires=hires)


def _hires_size(request: Request, hires: Hires, factor: int) -> Hires:
    first = (request.width or factor, request.height or factor)
    if hires.width is None and hires.height is None:
        width, height = (int(side * hires.scale) // factor * factor for side in first)
    else:
        width = hires.width or round(first[0] * (hires.height or 0) / first[1] / factor) * factor
        height = hires.height or round(first[1] * width / first[0] / factor) * factor
    if width < first[0] or height < first[1]:
        raise RequestError(
            f"hires size {width}x{height} is smaller than the first pass's {first[0]}x{first[1]}"
        )
    return replace(hires, width=width, height=height)


def first_interval(edit: Edit, steps: int) -> int:
    """The interval of a schedule of ``steps`` an edit starts with, by its rules.

    Raises:
        RequestError: no interval is left to run.
    """
    if edit.rules == "a1111":
        return steps - int(min(edit.strength, MOST_STRENGTH) * steps) - 1
    run = min(int(steps * edit.strength), steps)
    if run < 1:
        raise RequestError(
            f"strength {edit.strength} of {steps} steps leaves no step to run; "
            "raise the strength or the steps"
        )
    return steps - run


@dataclass(frozen=True)
class Stage:
    """One run of the sampler; a job has one, and with hires two."""

    request: Request
    """Its settings, completed, without ``hires``."""
    first: int
    """The interval of its schedule it starts at."""
    upscaler: Upscaler | None = None
    """How it gets its latents from the run before; None when there was none."""


def stages_of(request: Request) -> tuple[Stage, ...]:
    """The runs of a completed request.

    Raises:
        RequestError: after the strength no interval is left to run.
    """
    steps = request.steps or 1
    first = 0 if request.edit is None else first_interval(request.edit, steps)
    stages = (Stage(replace(request, hires=None), first),)
    hires = request.hires
    if hires is None:
        return stages
    # A1111 lengthens the schedule so that after the strength the wanted number of steps is run.
    wanted = hires.steps or steps
    whole = int(wanted / min(hires.strength, MOST_STRENGTH))
    schedule = request.schedule if hires.sampler is None else None
    second = replace(
        request,
        prompt=hires.prompt or request.prompt,
        negative_prompt=hires.negative_prompt or request.negative_prompt,
        width=hires.width,
        height=hires.height,
        steps=whole,
        guidance=request.guidance if hires.guidance is None else hires.guidance,
        sampler=hires.sampler or request.sampler,
        schedule=hires.schedule or schedule,
        sigmas=None,
        hires=None,
    )
    return (*stages, Stage(second, whole - wanted, find_upscaler(hires.upscaler)))
