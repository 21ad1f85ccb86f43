"""Fill a request's open fields from the package and refuse what cannot be drawn."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace

from sdlite.choices import DECODERS, MAX_SIDE, find_emphasis, find_rng, find_tiling
from sdlite.control.hints import complete_controls
from sdlite.edit.request import MAX_STEPS, complete_edit, complete_hires, stages_of
from sdlite.errors import RequestError, UnknownName
from sdlite.loras import LoraUse
from sdlite.manifest import TINY_DECODER, Manifest
from sdlite.profiles import Profile, find_profile
from sdlite.sampling import (
    OPTIONS,
    NoiseLevels,
    SamplerInfo,
    Variation,
    custom,
    find_sampler,
    resolve,
    sigmas_for,
    skipped_levels,
)
from sdlite.types import Float32, Request

MAX_IMAGES = 64
MAX_SEED = 2**64 - 1
MAX_CLIP_SKIP = 12
"""A1111's most; which layers there are depends on the model."""
MAX_PROMPT_CHARACTERS = 1_000_000
WHOLE = (
    "width",
    "height",
    "steps",
    "seed",
    "images",
    "clip_skip",
    "variation_seed",
    "seed_delta",
)
REALS = {
    "variation_strength": 1.0,
    "eta": 1.0,
    "s_churn": 100.0,
    "s_tmin": 1e6,
    "s_tmax": 1e6,
    "s_noise": 2.0,
}
"""Numbers from 0 and their most."""


def complete(request: Request, manifest: Manifest) -> Request:
    """The request with every default filled in and every name in A1111's spelling.

    Raises:
        RequestError: a value cannot be used; the message says what is allowed.
        UnknownName: a sampler, schedule or generator that does not exist.
    """
    if request.sigmas is not None:
        request = replace(request, steps=len(custom(request.sigmas)) - 1)
    request = complete_edit(request, manifest)
    for name in WHOLE:
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
    for name, seed in (("seed", request.seed), ("variation seed", request.variation_seed)):
        if not -1 <= seed <= MAX_SEED:
            raise RequestError(
                f"{name} {seed} is not between 0 and {MAX_SEED}; -1 draws a random one"
            )
    if abs(request.seed_delta) > MAX_SEED:
        raise RequestError(f"seed delta {request.seed_delta} is not within {MAX_SEED} of 0")
    _check_reals(request)
    if request.seed_resize is not None:
        for name, side in zip(("width", "height"), request.seed_resize, strict=True):
            _side(f"{name} to resize the seed from,", side, side, factor)
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
    _check_loras(request.loras)
    controls = complete_controls(request.controls, manifest)
    profile = find_profile(request.profile)
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
        variation_seed=_variation_seed(request),
        sampler=sampler.name,
        schedule=None if request.sigmas is not None else schedule.label,
        rng=find_rng(request.rng),
        emphasis=find_emphasis(request.emphasis),
        profile=profile.name,
        decoder=_decoder(request, profile, manifest),
        tiling=_tiling(request),
        guidance_rescale=rescale,
        guidance_interval=_interval(request, profile, manifest),
        controls=controls,
    )
    full = complete_hires(full, factor)
    for stage in stages_of(full)[1:]:
        complete(stage.request, manifest)
    return full


def _tiling(request: Request) -> str:
    tiling = find_tiling(request.tiling)
    if tiling and request.controls:
        raise RequestError("a seamless picture cannot follow controls; leave one of them out")
    if tiling and request.edit is not None and request.edit.only_masked:
        raise RequestError(
            "only masked works on a part, whose edges are none of the picture's: "
            "leave tiling or only masked"
        )
    return tiling


def _interval(request: Request, profile: Profile, manifest: Manifest) -> tuple[float, float] | None:
    # The two scales of instruct-pix2pix are not apart where guidance is off.
    if request.guidance_interval is not None or manifest.task == "edit":
        return request.guidance_interval
    return profile.interval


def _decoder(request: Request, profile: Profile, manifest: Manifest) -> str:
    there = any(artifact.component == TINY_DECODER for artifact in manifest.artifacts)
    if request.decoder is None:
        return "tiny" if profile.tiny and there and not request.tiling else "full"
    name = str(request.decoder).strip().casefold()
    if name not in DECODERS:
        raise UnknownName("decoder", str(request.decoder), DECODERS)
    if name == "tiny" and not there:
        raise RequestError(
            f"{manifest.name} has no tiny decoder; add TAESD's with "
            f"sdlite export taesd_decoder.safetensors --for {manifest.name}"
        )
    if name == "tiny" and request.tiling:
        raise RequestError("the tiny decoder draws no seamless pictures; leave tiling or it out")
    return name


def _check_loras(loras: Sequence[LoraUse]) -> None:
    for use in loras:
        if not isinstance(use, LoraUse):
            raise RequestError(f"LoRA {use!r} is no LoraUse; write sdlite.LoraUse(name, 0.8)")
        for strength in (use.unet, use.text_encoder or 0.0, *(value for _, value in use.blocks)):
            if not math.isfinite(strength):
                raise RequestError(f"LoRA {use.name}: strength {strength} is no number")
        if use.rank is not None and use.rank < 1:
            raise RequestError(f"LoRA {use.name}: rank {use.rank} is less than 1")


def _clean(text: str) -> str:
    """Bytes of a command line that are no UTF-8 arrive as lone surrogates: nothing reads those."""
    return text.encode("utf-8", "replace").decode("utf-8")


def draw_seed() -> int:
    """A random seed; from 0 to 2**32 - 2 as A1111 draws them, so that every tool takes it."""
    return secrets.randbelow(2**32 - 1)


def seeds_of(request: Request) -> tuple[int, ...]:
    """The seed of each image of a completed request: ``seed + i``, wrapping at 2**64.

    With a variation it is ``seed`` for all.
    """
    if request.variation_strength > 0:
        return (request.seed,) * request.images
    return _counted(request.seed, request.images)


def variation_seeds_of(request: Request) -> tuple[int, ...]:
    """The variation seed of each image of a completed request; none without a variation."""
    if request.variation_strength == 0:
        return ()
    return _counted(request.variation_seed, request.images)


def variation_of(request: Request, factor: int) -> Variation:
    """How the noise of a completed request departs from its seeds; ``factor`` pixels are a cell."""
    cells = None
    if request.seed_resize is not None:
        width, height = request.seed_resize
        cells = (height // factor, width // factor)
    strength, seeds = request.variation_strength, variation_seeds_of(request)
    return Variation(seeds, strength, cells, request.seed_delta)


def sampling_of(
    request: Request, manifest: Manifest, levels: NoiseLevels, first: int = 0
) -> tuple[SamplerInfo, Float32]:
    """The sampler of a completed request and the levels it visits from interval ``first`` on."""
    sampler, schedule = resolve(str(request.sampler), request.schedule)
    count = request.steps or 1
    if request.sigmas is not None:
        whole = custom(request.sigmas)
    else:
        sdxl = manifest.family.startswith("sdxl")
        whole = sigmas_for(schedule, levels, count, sampler, sdxl=sdxl)
    return sampler, whole[skipped_levels(whole, first, count) :]


def options_of(request: Request) -> dict[str, float]:
    """What of a completed request its sampler may take; unset ones are left to the sampler."""
    options = {name: getattr(request, name) for name in OPTIONS if name != "s_tmax"}
    options["s_tmax"] = request.s_tmax or math.inf
    return {name: value for name, value in options.items() if value is not None}


def unused_options(request: Request) -> tuple[str, ...]:
    """A note on each option given that the sampler of a completed request does not take."""
    sampler, plain = find_sampler(str(request.sampler)), Request("")
    given = [name for name in OPTIONS if getattr(request, name) != getattr(plain, name)]
    lacking = [name for name in given if name not in sampler.options]
    notes = [f"{sampler.name} takes no {name}; it is ignored" for name in lacking]
    profile, steps = find_profile(request.profile), request.steps or 1
    if profile.interval is not None and request.guidance_interval is None:
        notes.append(
            f"profile {profile.name} keeps guidance on in every step: the model follows a picture "
            "with a scale of its own"
        )
    if profile.forecasts and sampler.forecasts and profile.gap(steps - 1, steps) <= 1:
        notes.append(f"profile {profile.name} forecasts nothing in a run of only {steps} steps")
    if find_profile(request.profile).forecasts and not sampler.forecasts:
        notes.append(
            f"profile {request.profile} asks the model as often as quality: answers for "
            f"{sampler.name} are not forecast"
        )
    return tuple(notes)


def _check_reals(request: Request) -> None:
    for name, high in REALS.items():
        value = getattr(request, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0.0 <= value <= high):
            words = name if name.startswith("s_") else name.replace("_", " ")
            raise RequestError(f"{words} {value!r} is not between 0 and {high:g}")


def _variation_seed(request: Request) -> int:
    draw = request.variation_strength > 0 and request.variation_seed == -1
    return draw_seed() if draw else request.variation_seed


def _counted(seed: int, images: int) -> tuple[int, ...]:
    return tuple((seed + index) % (MAX_SEED + 1) for index in range(images))


def _side(name: str, value: int | None, default: int, factor: int) -> int:
    side = default if value is None else value
    if not factor <= side <= MAX_SIDE:
        raise RequestError(f"{name} {side} is not between {factor} and {MAX_SIDE} pixels")
    if side % factor:
        low = side - side % factor
        near = f"{low} or {low + factor}" if low + factor <= MAX_SIDE else str(low)
        raise RequestError(f"{name} {side} is not a multiple of {factor}; try {near}")
    return side
